// Runs every kernel of one instruction set and of the scalar table on the same random numbers, and compares
// the results bit for bit. For processors that no Python test reaches: built by a cross compiler, run by an
// emulator. Usage: compare_kernels neon
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "dispatch.h"

using namespace qw;

namespace {

using Floats = std::vector<float>;
std::mt19937 generator(1);

Floats random_floats(int n, float scale = 1.0f) {
    std::normal_distribution<float> normal(0.0f, scale);
    Floats x(n);
    for (float& value : x) value = normal(generator);
    return x;
}

int num_failed = 0;
template <class T>
void expect_same(const char* what, const std::vector<T>& a, const std::vector<T>& b) {
    if (a.size() == b.size() && !std::memcmp(a.data(), b.data(), a.size() * sizeof(T))) return;
    std::printf("%s differs\n", what);
    num_failed++;
}

// Runs `body(kernels, y)` with both tables on fresh outputs of n values.
template <class T = float, class Body>
void compare(const char* what, const Kernels* other, int n, const Body& body) {
    std::vector<T> expected(n), found(n);
    body(*scalar_kernels(), expected.data());
    body(*other, found.data());
    expect_same(what, expected, found);
}

std::vector<uint8_t> quantised(const Floats& x, int k) {
    std::vector<uint8_t> row(RowLayout(k).bytes());
    scalar_kernels()->quantise(x.data(), k, k, 0, RowLayout(k).num_groups, row.data());
    return row;
}

void compare_matmul(const Kernels* other, Format format, int n, int k) {
    const int block_bytes = format == FORMAT_Q4 ? Q4_BLOCK_BYTES : Q8_BLOCK_BYTES;
    const int num_blocks = num_row_blocks(n) * num_k_blocks(k);
    uint8_t* data = static_cast<uint8_t*>(std::aligned_alloc(64, size_t(num_blocks) * block_bytes));
    for (int i = 0; i < num_blocks * block_bytes; i++) {
        data[i] = uint8_t(generator());
        if (format == FORMAT_Q8 && data[i] == 0x80) data[i] = 0x81; // -128 is no weight
    }
    for (int b = 0; b < num_blocks; b++) { // scales: any finite half
        uint16_t* scales = reinterpret_cast<uint16_t*>(data + size_t(b) * block_bytes);
        for (int i = 0; i < 32; i++) scales[i] = uint16_t(generator()) & 0xbfff;
    }
    const int num_rows = 9;
    std::vector<std::vector<uint8_t>> rows;
    std::vector<const void*> pointers;
    for (int m = 0; m < num_rows; m++) {
        rows.push_back(quantised(random_floats(k, float(m)), k));
        pointers.push_back(rows.back().data());
    }
    const Matrix w{data, format, n, k, 0};
    for (int count = 1; count <= num_rows; count++) {
        compare("matmul", other, count * n, [&](const Kernels& kernels, float* y) {
            std::vector<float*> out;
            for (int m = 0; m < count; m++) out.push_back(y + m * n);
            kernels.matmul(w, 0, num_row_blocks(n), pointers.data(), count, out.data());
        });
    }
    std::free(data);
}

void compare_rows(const Kernels* other, int n) {
    const Floats x = random_floats(n, 3.0f), w = random_floats(n), b = random_floats(n);
    for (float scale : {1.0f, 1e-36f, 1e-38f}) { // some groups are zero, then all
        const Floats some = random_floats(n, scale);
        const RowLayout layout(n);
        compare<uint8_t>("quantise", other, int(layout.bytes()), [&](const Kernels& kernels, uint8_t* y) {
            kernels.quantise(some.data(), n, n, 0, layout.num_groups, y);
        });
    }
    const auto on_rows = [&](const char* what, const auto& body) {
        compare(what, other, n, [&](const Kernels& kernels, float* y) {
            std::copy(x.begin(), x.end(), y);
            body(kernels, y);
        });
    };
    on_rows("rms_norm", [&](const Kernels& k, float* y) { k.rms_norm(y, w.data(), 1e-6f, n, y); });
    on_rows("gated_norm",
            [&](const Kernels& k, float* y) { k.gated_norm(y, w.data(), b.data(), 1e-6f, n, y); });
    on_rows("layer_norm",
            [&](const Kernels& k, float* y) { k.layer_norm(y, w.data(), b.data(), 1e-6f, n, y); });
    on_rows("l2_normalise", [&](const Kernels& k, float* y) { k.l2_normalise(y, 0.25f, n); });
    on_rows("swiglu", [&](const Kernels& k, float* y) { k.swiglu(y, w.data(), n, y); });
    on_rows("gelu_tanh", [&](const Kernels& k, float* y) { k.activate(ACTIVATION_GELU_TANH, y, n); });
    on_rows("gelu_exact", [&](const Kernels& k, float* y) { k.activate(ACTIVATION_GELU_EXACT, y, n); });
    on_rows("gate", [&](const Kernels& k, float* y) { k.gate(y, w.data(), n); });
    on_rows("add", [&](const Kernels& k, float* y) { k.add(y, w.data(), n); });
    on_rows("add_scaled", [&](const Kernels& k, float* y) { k.add_scaled(y, w.data(), 0.3f, n); });
    on_rows("exponentiate", [&](const Kernels& k, float* y) { y[0] = k.exponentiate(y, n); });
    on_rows("rotate", [&](const Kernels& k, float* y) { k.rotate(y, w.data(), b.data(), n / 2); });
    on_rows("sigmoid", [&](const Kernels& k, float* y) { y[0] = k.sigmoid(x[0]); });
    compare<uint16_t>("to_bf16", other, n, [&](const Kernels& k, uint16_t* y) { k.to_bf16(x.data(), n, y); });
    compare("decay_and_beta", other, 2 * n, [&](const Kernels& k, float* y) {
        Floats negative(n);
        for (int i = 0; i < n; i++) negative[i] = -std::abs(w[i]);
        k.decay_and_beta(x.data(), b.data(), w.data(), negative.data(), n, y, y + n);
    });
}

// Keys and values of a head that begins at the third of its row's values.
void compare_pack_head(const Kernels* other, int count, int head_dim) {
    for (float scale : {1.0f, 1e-5f, 1e7f}) {
        const int at = 3, width = at + head_dim;
        const Floats x = random_floats(count * width, scale), mean = random_floats(head_dim, scale);
        std::vector<const float*> rows;
        for (int i = 0; i < count; i++) rows.push_back(x.data() + i * width);
        const auto size = [](int n, int k) { return num_row_blocks(n) * num_k_blocks(k) * Q8_BLOCK_BYTES; };
        compare<uint8_t>("pack_keys", other, size(count, head_dim), [&](const Kernels& kernels, uint8_t* y) {
            kernels.pack_keys(rows.data(), at, mean.data(), count, head_dim, y);
        });
        compare<uint8_t>("pack_values", other, size(head_dim, count),
                         [&](const Kernels& kernels, uint8_t* y) {
                             kernels.pack_values(rows.data(), at, count, head_dim, y);
                         });
    }
}

template <class Number>
void compare_quantise_weights(const Kernels* other, NumberType type, const std::vector<Number>& w, int n,
                              int k) {
    for (Format format : {FORMAT_Q4, FORMAT_Q8}) {
        const int block_bytes = format == FORMAT_Q4 ? Q4_BLOCK_BYTES : Q8_BLOCK_BYTES;
        const int size = num_row_blocks(n) * num_k_blocks(k) * block_bytes;
        compare<uint8_t>("quantise_weights", other, size + 1, [&](const Kernels& kernels, uint8_t* y) {
            y[size] = kernels.quantise_weights(w.data(), type, n, k, format, y);
        });
    }
}

void compare_weights(const Kernels* other, int n, int k) {
    for (float scale : {0.02f, 1e3f, 1e-5f, 1e-7f, 1e-38f}) {
        const Floats w = random_floats(n * k, scale);
        std::vector<uint16_t> bf16(w.size());
        scalar_kernels()->to_bf16(w.data(), n * k, bf16.data());
        compare_quantise_weights(other, NUMBER_F32, w, n, k);
        compare_quantise_weights(other, NUMBER_BF16, bf16, n, k);
    }
    std::vector<uint16_t> f16(n * k);
    for (uint16_t& bits : f16) bits = uint16_t(generator()) & 0xbbff; // none is infinite
    compare_quantise_weights(other, NUMBER_F16, f16, n, k);
    f16[n * k / 2] = 0x7e00; // no number
    std::vector<uint8_t> tiles(num_row_blocks(n) * num_k_blocks(k) * Q4_BLOCK_BYTES);
    if (other->quantise_weights(f16.data(), NUMBER_F16, n, k, FORMAT_Q4, tiles.data())) {
        std::printf("quantise_weights holds what is no number\n");
        num_failed++;
    }
}

void compare_linear(const Kernels* other, int T, int K, int V) {
    const Floats q = random_floats(T * K, 0.1f), k = random_floats(T * K, 0.1f), v = random_floats(T * V);
    const Floats decay(T, 0.9f), beta(T, 0.7f), state = random_floats(K * V);
    compare("delta_rule", other, K * V + T * V, [&](const Kernels& kernels, float* y) {
        kernels.delta_rule({T, K, V, q.data(), k.data(), v.data(), K, V, decay.data(), beta.data(), 1,
                            state.data(), y, state.data(), y + K * V, V});
    });
    const Floats x = random_floats(T * V), taps = random_floats(4 * V);
    std::vector<uint16_t> past(3 * V, 0x3f80), left(3 * V);
    compare("convolve", other, T * V + 3 * V, [&](const Kernels& kernels, float* y) {
        kernels.convolve(x.data(), T, V, 4, taps.data(), past.data(), left.data(), 0, V, y);
        for (int i = 0; i < 3 * V; i++) y[T * V + i] = float(left[i]);
    });
}

void compare_attention(const Kernels* other, int rows, int keys, int Dh) {
    const int padded = padded_head(Dh);
    const Floats wide = random_floats(2 * keys * Dh);
    std::vector<uint16_t> narrow(wide.size());
    scalar_kernels()->to_bf16(wide.data(), int(wide.size()), narrow.data());
    Floats q(rows * padded);
    std::vector<int> limits(rows);
    for (int r = 0; r < rows; r++) {
        const Floats one = random_floats(Dh);
        std::copy(one.begin(), one.end(), q.begin() + r * padded);
        limits[r] = std::max(0, keys - r * 3);
    }
    Floats scratch(attention_scratch_floats(rows, Dh));
    compare("attend", other, rows * (padded + 2), [&](const Kernels& kernels, float* y) {
        kernels.attend({rows, Dh, q.data(), narrow.data(), narrow.data() + keys * Dh, limits.data(),
                        scratch.data(), y + rows * padded, y + rows * (padded + 1), y});
        float top = 0.5f, total = 2.0f;
        kernels.merge(&top, &total, y, y[rows * padded], y[rows * (padded + 1)], y + padded, Dh);
    });
}

} // namespace

int main(int, char** arguments) {
    const Kernels* other = choose_kernels(arguments[1]);
    if (!other) {
        std::printf("%s: not built, or the processor cannot run it\n", arguments[1]);
        return 2;
    }
    for (int n : {24, 40, 130}) {
        for (int k : {24, 72, 512}) {
            compare_matmul(other, FORMAT_Q4, n, k);
            compare_matmul(other, FORMAT_Q8, n, k);
            compare_weights(other, n, k);
        }
    }
    for (int n : {8, 13, 64, 250}) compare_rows(other, n);
    for (int V : {18, 32, 128}) compare_linear(other, 5, 13, V), compare_linear(other, 1, 128, V);
    for (int count : {5, 77}) {
        for (int head_dim : {8, 64, 72}) compare_pack_head(other, count, head_dim);
    }
    for (int rows : {2, 7, 32}) {
        compare_attention(other, rows, 77, 40), compare_attention(other, rows, 256, 72);
    }
    std::printf("%s: %d kernels differ\n", other->name, num_failed);
    return num_failed != 0;
}
