// The C ABI: plain structs and functions, called by ctypes with pointers to numpy buffers.
//
// Letters: M rows (tokens) of this call, D hidden size, B sequences, A experts per token. A prefill is M
// tokens of one sequence, a decode step one token of each of M sequences; the same functions serve both.
// Sizes are the caller's to check. Functions return 0, or 1 where memory ran out. Everything is float32
// unless it says otherwise; bf16 is its bits. library.py holds the same structs for ctypes: change both.
#pragma once

#include "layout.h"

extern "C" {

typedef qw::Matrix QwMatrix;
typedef struct QwContext QwContext; // threads, kernels, scratch memory; one call at a time

// Which rows belong to which sequence, and where they stand. Sequences go through a layer's states in order:
// rows of one of them may also be passed as sequences of one row each, whose states each begin where the one
// before it ends; so every row's state is kept.
typedef struct {
    int32_t num_rows, num_seqs;
    const int32_t* starts; // (B + 1): rows starts[b] .. starts[b + 1] are sequence b's
    const int32_t* past;   // (B): its tokens before this call
    const float* cos;      // (M, rotary_dim / 2)
    const float* sin;
} QwBatch;

// What follows a mixer: the norm before the MLP, and the router where that is a mixture of experts.
typedef struct {
    const float* norm; // (D)
    QwMatrix router;   // (E, D); data null: dense
    int32_t top_k, reserved;
} QwAfter;

typedef struct {
    int32_t hidden, num_k_heads, num_v_heads, k_dim, v_dim, conv_width;
    float eps;
    int32_t reserved;
    const float* input_norm; // (D)
    QwMatrix in_qkv, in_z, in_b, in_a, out;
    const float* conv;    // (W, C)
    const float* neg_a;   // (Hv): -exp(A_log)
    const float* dt_bias; // (Hv)
    const float* norm;    // (V)
    QwAfter after;
} QwLinear;

typedef struct {
    const uint16_t* conv_in; // (W - 1, C) bf16
    uint16_t* conv_out;
    const float* state_in; // (Hv, K, V)
    float* state_out;
} QwLinearState;

typedef struct {
    int32_t hidden, num_heads, num_kv_heads, head_dim, rotary_dim;
    float eps;
    const float* input_norm; // (D)
    QwMatrix q, k, v, out;   // q: per head its query, then its gate
    const float* q_norm;     // (Dh)
    const float* k_norm;
    QwAfter after;
} QwAttention;

// Blocks (Hkv, 256, Dh) bf16 of one sequence, enough for its past and the rows of this call.
typedef struct {
    uint16_t* const* k;
    uint16_t* const* v;
} QwKeyValues;

typedef struct {
    QwMatrix gate, up, down;
} QwMlp;

typedef struct {
    QwMlp shared;
    QwMatrix shared_gate; // (1, D)
    // Shapes and format of every expert record: gate, up, down one after another, each aligned to 64 bytes.
    QwMatrix gate, up, down;
    int32_t num_experts, top_k;
} QwMoe;

typedef struct {
    const float *norm1_w, *norm1_b, *norm2_w, *norm2_b; // (d)
    QwMatrix qkv, proj, fc1, fc2;                       // qkv: all q, all k, all v
    const float *qkv_bias, *proj_bias, *fc1_bias, *fc2_bias;
} QwVisionBlock;

typedef struct {
    int32_t depth, hidden, num_heads, merge_rows; // merge_rows: patches that become one token
    float eps;
    int32_t reserved;
    QwMatrix patch_embed;
    const float* patch_bias;
    const QwVisionBlock* blocks;
    const float *merger_norm_w, *merger_norm_b;
    QwMatrix merger_fc1, merger_fc2;
    const float *merger_fc1_bias, *merger_fc2_bias;
} QwVision;

// `isa` null or empty: the best. Returns null where `isa` cannot run here, or memory ran out.
QwContext* qw_create(int32_t num_threads, const char* isa);
void qw_destroy(QwContext* context);
const char* qw_isa(const QwContext* context);
const char* qw_source_hash(void); // as compiler.py had it: tells a library from those of other sources

// Rows of the embedding matrix: x (M, D).
int32_t qw_embed(QwContext*, const QwMatrix* table, const int64_t* ids, int32_t num_rows, float* x);

// x (M, D) += mixer(norm(x)); h (M, D) = norm(x) for the MLP; with a router also chosen (M, A), weights (M,
// A).
int32_t qw_linear(QwContext*, const QwLinear*, const QwBatch*, const QwLinearState* states, float* x,
                  float* h, int32_t* chosen, float* weights);
int32_t qw_attention(QwContext*, const QwAttention*, const QwBatch*, const QwKeyValues* blocks, float* x,
                     float* h, int32_t* chosen, float* weights);

// A guess at that choice before the layer's turn: what its router says of x (M, D) as it is by then.
// chosen (M, A).
int32_t qw_guess(QwContext*, const QwAfter*, float eps, int32_t hidden, int32_t num_rows, const float* x,
                 int32_t* chosen);

// x (M, D) += mlp(h).
int32_t qw_mlp(QwContext*, const QwMlp*, int32_t num_rows, const float* h, float* x);
// Likewise a mixture; `records[e]` is where expert e lies, needed for the chosen ones only.
int32_t qw_moe(QwContext*, const QwMoe*, int32_t num_rows, const float* h, const int32_t* chosen,
               const float* weights, const void* const* records, float* x);
// The same in steps, for experts that come one after another: those `wanted` (E) of the chosen ones, each slot
// (row * A + rank) of y (M * A, D) by itself; `shared` (M, D) in one of the calls, null in the others. Then the
// sum of them all, which uses y up.
int32_t qw_experts(QwContext*, const QwMoe*, int32_t num_rows, const float* h, const int32_t* chosen,
                   const void* const* records, const uint8_t* wanted, float* y, float* shared);
int32_t qw_sum_experts(QwContext*, const QwMoe*, int32_t num_rows, const float* weights, float* y,
                       const float* shared, float* x);

// logits (R, vocab) of the rows `rows` (R) of x (M, D), after the final norm.
int32_t qw_head(QwContext*, const float* norm, float eps, const QwMatrix* head, const float* x,
                const int32_t* rows, int32_t num_rows, float* logits);

// Features (P / merge_rows, D) of patches (P, values). `positions` (P, d) are added to the embedded patches,
// `cos`, `sin` (P, Dh / 2) turn the heads, `frames` (F) are the lengths of the runs that see each other.
int32_t qw_vision(QwContext*, const QwVision*, const float* patches, int32_t num_patches,
                  const float* positions, const float* cos, const float* sin, const int32_t* frames,
                  int32_t num_frames, float* features);

// The tiles of weights (n, k) into `tiles`, as weights/quantize.py defines them. `type`: 0 float32, 1
// float16, 2 bfloat16; `format`: 1 q4, 2 q8. Returns 2 where it would refuse the weights. On the caller's
// thread, and in any number of them at once.
int32_t qw_quantise(const QwContext*, const void* weights, int32_t type, int64_t n, int64_t k, int32_t format,
                    uint8_t* tiles);

// Records of files, read by threads of their own. Bytes [begin, end) of one have that checksum.
typedef struct {
    int64_t begin, end;
    uint64_t checksum;
} QwCheck;

// Of a read; QW_READ_IDLE: never submitted, or taken back.
enum { QW_READ_IDLE = 0, QW_READ_WAITS = 1, QW_READ_BEGUN = 2, QW_READ_DONE = 3, QW_READ_FAILED = 4 };

// It lies still from its submission until it is done or taken back. Where it fails, the caller reads again, and
// finds out why.
typedef struct {
    int32_t fd;
    int32_t is_cached; // read by way of the system's cache, which is told to forget it
    int64_t offset, num_bytes;
    void* memory;
    const QwCheck* checks;
    int32_t num_checks;
    int32_t state;
} QwRead;

typedef struct QwReaders QwReaders;

QwReaders* qw_readers_create(int32_t num_threads, int32_t later_at_once); // null: no memory or no thread
void qw_readers_destroy(QwReaders*); // drops what nobody has begun, waits for the rest
int32_t qw_readers_submit(QwReaders*, QwRead* const* reads, int32_t count, int32_t is_urgent);
int32_t qw_readers_hurry(QwReaders*, QwRead*);  // somebody waits for what was only meant for later
int32_t qw_readers_cancel(QwReaders*, QwRead*); // 1: it is idle, 0: somebody has begun
int32_t qw_readers_wait(QwReaders*, QwRead* const* reads, int32_t count, int32_t timeout_ms); // 1: all done

// y (M, N) = x (M, K) times the transpose of w, by the same road as the blocks; for tests and benchmarks.
int32_t qw_matmul(QwContext*, const QwMatrix* w, const float* x, int32_t num_rows, float* y);

} // extern "C"
