#include "gemm.h"

namespace qw {

namespace {

constexpr int ROW_CHUNK = 64; // rows that go through a run of weights together: they fit the L2 cache
constexpr int WEIGHT_CHUNK = 256 * 1024; // bytes of weights that one item reads: shorter streams are slower

// How one product is cut into items: runs of units (row blocks or groups) times runs of rows.
struct Cut {
    int units_per_item, num_row_chunks, num_items;
};

Cut cut(int num_units, size_t unit_bytes, int num_rows, int num_threads) {
    int units = std::max<int>(1, int(WEIGHT_CHUNK / unit_bytes));
    units = std::min(units, std::max(1, num_units / (2 * num_threads))); // all threads get some
    const int row_chunks = (num_rows + ROW_CHUNK - 1) / ROW_CHUNK;
    return {units, row_chunks, (num_units + units - 1) / units * row_chunks};
}

// Runs body(part, item within that part) for the items of several parts in one loop over threads.
template <class Body>
void run_parts(Context& context, const Cut* cuts, int count, const Body& body) {
    int total = 0;
    for (int i = 0; i < count; i++) total += cuts[i].num_items;
    context.pool.run(total, [&](int item, int) {
        int part = 0;
        while (item >= cuts[part].num_items) item -= cuts[part++].num_items;
        body(part, item);
    });
}

void run_product(Context& context, const Product& product, const Cut& cut, int item) {
    const int first = item / cut.num_row_chunks * cut.units_per_item;
    const int last = std::min(num_row_blocks(product.w.n), first + cut.units_per_item);
    const int row = item % cut.num_row_chunks * ROW_CHUNK;
    const int count = std::min(ROW_CHUNK, product.x.num_rows - row);
    const void* const* rows = product.w.format == FORMAT_F32 ? product.x.floats : product.x.quantised;
    float* y[ROW_CHUNK];
    for (int m = 0; m < count; m++) y[m] = product.y[row + m] + first * TILE_ROWS;
    context.kernels->matmul(product.w, first, last, rows + row, count, y);
    if (product.bias) {
        const int width = std::min(product.w.n, last * TILE_ROWS) - first * TILE_ROWS;
        for (int m = 0; m < count; m++) context.kernels->add(y[m], product.bias + first * TILE_ROWS, width);
    }
}

// One group of 32 outputs of an expansion, for up to ROW_CHUNK rows.
void expand_group(Context& context, const Expansion& e, int group, int row, int count) {
    constexpr int BLOCKS = GROUP / TILE_ROWS;
    alignas(64) float gate[ROW_CHUNK * GROUP], up[ROW_CHUNK * GROUP];
    float *gate_rows[ROW_CHUNK], *up_rows[ROW_CHUNK];
    for (int m = 0; m < count; m++) gate_rows[m] = gate + m * GROUP, up_rows[m] = up + m * GROUP;
    const int first = group * BLOCKS, last = std::min(num_row_blocks(e.gate.n), first + BLOCKS);
    const int width = std::max(0, std::min(GROUP, e.gate.n - group * GROUP)); // fewer in the padding
    const auto product = [&](const Matrix& w, float* const* y) {
        const void* const* rows = w.format == FORMAT_F32 ? e.x.floats : e.x.quantised;
        if (width) context.kernels->matmul(w, first, last, rows + row, count, y);
    };
    product(e.gate, gate_rows);
    if (e.up.data) product(e.up, up_rows);
    for (int m = 0; m < count; m++) {
        if (e.up.data) {
            context.kernels->swiglu(gate_rows[m], up_rows[m], width, gate_rows[m]);
        } else {
            if (e.bias) context.kernels->add(gate_rows[m], e.bias + group * GROUP, width);
            context.kernels->activate(e.activation, gate_rows[m], width);
        }
        context.kernels->quantise(gate_rows[m], width, e.gate.n, group, group + 1, e.y[row + m]);
    }
}

} // namespace

void multiply(Context& context, const Product* products, int count) {
    Cut* cuts = context.scratch.take<Cut>(count);
    for (int i = 0; i < count; i++) {
        const Matrix& w = products[i].w;
        const int num_rows = products[i].x.num_rows;
        cuts[i] = cut(num_row_blocks(w.n), row_block_bytes(w), num_rows, context.pool.num_threads());
    }
    run_parts(context, cuts, count,
              [&](int part, int item) { run_product(context, products[part], cuts[part], item); });
}

void expand(Context& context, const Expansion* expansions, int count) {
    Cut* cuts = context.scratch.take<Cut>(count);
    for (int i = 0; i < count; i++) {
        const Matrix& w = expansions[i].gate;
        const size_t group_bytes = row_block_bytes(w) * (GROUP / TILE_ROWS) * (expansions[i].up.data ? 2 : 1);
        const int num_groups = RowLayout(w.n).num_groups;
        cuts[i] = cut(num_groups, group_bytes, expansions[i].x.num_rows, context.pool.num_threads());
    }
    run_parts(context, cuts, count, [&](int part, int item) {
        const Expansion& e = expansions[part];
        const int first = item / cuts[part].num_row_chunks * cuts[part].units_per_item;
        const int last = std::min(RowLayout(e.gate.n).num_groups, first + cuts[part].units_per_item);
        const int row = item % cuts[part].num_row_chunks * ROW_CHUNK;
        const int rows = std::min(ROW_CHUNK, e.x.num_rows - row);
        for (int group = first; group < last; group++) expand_group(context, e, group, row, rows);
    });
}

} // namespace qw
