// Sparse convolution on AMX's tiles: float32 in three parts, or operands in bfloat16.
//
// Of a block of output rows, up to GROUP pairs of one offset at a time are multiplied. Meanwhile the rows of
// the next group are gathered and cut, and the products before are added to the block's sums. A row's sums see
// its pairs in plan order whatever group they fall into: the result depends neither on the threads nor on the
// blocks.
#include <algorithm>
#include <vector>

#include "processor.h"
#include "tiles.h"

namespace bifusion::tiles {
namespace {

// weight (offsets, cin, cout) in tiles by offset, panel of 16 columns, chunk of 32 channels, part. By one team.
void pack(const float* weight, int64_t offsets, int64_t cin, int64_t cout, Line* out) {
    const int64_t chunks = (cin + DEPTH - 1) / DEPTH, panels = (cout + COLUMNS - 1) / COLUMNS;
#pragma omp for schedule(static)
    for (int64_t place = 0; place < offsets * panels; ++place) {
        const int64_t offset = place / panels, column = place % panels * COLUMNS;
        const __mmask16 there = first_lanes(cout - column);
        const float* from = weight + offset * cin * cout + column;
        Line* to = out + place * chunks * 3 * TILE;
        for (int64_t chunk = 0; chunk < chunks; ++chunk)
            for (int64_t row = 0; row < 16; ++row) {
                const int64_t low = chunk * DEPTH + row, high = low + 16;
                store_parts<3>(_mm512_maskz_loadu_epi32(low < cin ? there : 0, from + low * cout),
                               _mm512_maskz_loadu_epi32(high < cin ? there : 0, from + high * cout),
                               to + chunk * 3 * TILE + row);
            }
    }
}

// Pairs of one offset.
struct Group {
    int64_t offset, first, count;
};

// The rows of a group on their way into tiles by chunk, upper or lower half, part.
template <int Parts>
struct Gather {
    const float* in;
    int64_t cin, chunks;
    const int32_t* end;  // of all pairs' rows
    const int32_t* rows = nullptr;
    Line* out = nullptr;
    int64_t count = 0, row = 0;

    void one() {
        const float* from = in + rows[row] * cin;
        if (rows + row + AHEAD < end) prefetch(in + rows[row + AHEAD] * cin, cin);
        Line* to = out + row / 16 * Parts * TILE + row % 16;
        for (int64_t chunk = 1; chunk < chunks; ++chunk, from += DEPTH, to += 2 * Parts * TILE)
            store_parts<Parts>(_mm512_loadu_si512(from), _mm512_loadu_si512(from + 16), to);
        const int64_t left = cin - (chunks - 1) * DEPTH;
        store_parts<Parts>(_mm512_maskz_loadu_epi32(first_lanes(left), from),
                           _mm512_maskz_loadu_epi32(first_lanes(left - 16), from + 16), to);
        ++row;
    }
};

// Products (32, 32) of a group on their way into the sums (block's rows, columns).
struct Addition {
    const float* products = nullptr;
    const int32_t* rows = nullptr;
    float* sums = nullptr;  // of row 0 of all, at the products' first column
    int64_t columns = 0, count = 0, row = 0;
    bool wide = false;

    void one() {
        float* sum = sums + rows[row] * columns;
        const float* product = products + row * 2 * COLUMNS;
        _mm512_store_ps(sum, _mm512_add_ps(_mm512_load_ps(sum), _mm512_load_ps(product)));
        if (wide) {
            sum += COLUMNS, product += COLUMNS;
            _mm512_store_ps(sum, _mm512_add_ps(_mm512_load_ps(sum), _mm512_load_ps(product)));
        }
        ++row;
    }
};

template <int Parts>
struct Beside {
    Gather<Parts> gather;
    int64_t gathered_a_turn, added_a_turn;
    Addition addition{};

    void some() {
        for (int64_t i = 0; i < added_a_turn && addition.row < addition.count; ++i) addition.one();
        for (int64_t i = 0; i < gathered_a_turn && gather.row < gather.count; ++i) gather.one();
    }
    void gather_all() {
        while (gather.row < gather.count) gather.one();
        tiles_are_stored();
    }
    void add_all() {
        while (addition.row < addition.count) addition.one();
    }
};

template <int Parts, bool Tall, bool Wide>
void multiply(const Line* a, const Line* weight, int64_t chunks, float* products, Beside<Parts>& beside) {
    _tile_zero(0);
    if constexpr (Wide) _tile_zero(1);
    if constexpr (Tall) _tile_zero(2);
    if constexpr (Tall && Wide) _tile_zero(3);
    constexpr int64_t HALF = Parts * TILE;
    for (int64_t chunk = 0; chunk < chunks; ++chunk)
        add_product<Parts, Tall, Wide>(a + chunk * 2 * HALF, HALF, weight + chunk * HALF, chunks * HALF, beside);
    constexpr int64_t ROW = 2 * COLUMNS, BYTES = ROW * sizeof(float);
    _tile_stored(0, products, BYTES);
    if constexpr (Wide) _tile_stored(1, products + COLUMNS, BYTES);
    if constexpr (Tall) _tile_stored(2, products + 16 * ROW, BYTES);
    if constexpr (Tall && Wide) _tile_stored(3, products + 16 * ROW + COLUMNS, BYTES);
}

void list_groups(const Plan& plan, int64_t block, std::vector<Group>& groups) {
    groups.clear();
    for (int64_t offset = 0; offset < plan.offsets; ++offset) {
        const int64_t* start = plan.start + block * plan.offsets + offset;
        for (int64_t first = start[0]; first < start[1]; first += GROUP)
            groups.push_back({offset, first, std::min(GROUP, start[1] - first)});
    }
}

// By one team; weight in tiles as `pack` makes them.
template <int Parts>
void convolve_packed(const Plan& plan, const float* in, int64_t cin, const Line* weight, int64_t cout,
                     const Finish<float>& finish, float* out) {
    const int64_t chunks = (cin + DEPTH - 1) / DEPTH, panels = (cout + COLUMNS - 1) / COLUMNS;
    const int64_t columns = panels * COLUMNS, group_lines = chunks * 2 * Parts * TILE;
    const int64_t turns = products_of(Parts) * chunks, all_turns = turns * ((panels + 1) / 2);
    // Rows behind a group's last hold anything, and so do their products, which are added to nothing.
    Lines tiles(2 * group_lines), summed(plan.block_rows * panels), multiplied(2 * 2 * GROUP);
    float* sums = summed.floats();
    std::vector<Group> groups;
    const int32_t* end = plan.pair_in + plan.start[plan.blocks * plan.offsets];
    Beside<Parts> beside{{in, cin, chunks, end}, (GROUP - 1) / all_turns + 1, (GROUP - 1) / turns + 1};
    const Tiles configured;
    int64_t turn = 0;
#pragma omp for schedule(dynamic, 1)
    for (int64_t block = 0; block < plan.blocks; ++block) {
        const int64_t first_row = block * plan.block_rows;
        const int64_t rows = std::min(plan.block_rows, plan.rows - first_row);
        std::fill_n(sums, rows * columns, 0.0f);
        list_groups(plan, block, groups);
        for (size_t next = 0; next <= groups.size(); ++next) {
            beside.gather_all();
            const Line* a = beside.gather.out;
            if (next < groups.size()) {
                const Group& group = groups[next];
                beside.gather = {
                    in,         cin, chunks, end, plan.pair_in + group.first, tiles.data() + next % 2 * group_lines,
                    group.count};
            }
            if (next == 0) continue;
            const Group& group = groups[next - 1];
            for (int64_t panel = 0; panel < panels; panel += 2) {
                const bool tall = group.count > 16, wide = panel + 1 < panels;
                const auto multiply_some = tall ? (wide ? multiply<Parts, true, true> : multiply<Parts, true, false>)
                                                : (wide ? multiply<Parts, false, true> : multiply<Parts, false, false>);
                float* products = multiplied.floats() + turn++ % 2 * GROUP * 2 * COLUMNS;
                multiply_some(a, weight + (group.offset * panels + panel) * chunks * Parts * TILE, chunks, products,
                              beside);
                beside.add_all();
                beside.addition = {products,
                                   plan.pair_out + group.first,
                                   sums - first_row * columns + panel * COLUMNS,
                                   columns,
                                   group.count,
                                   0,
                                   wide};
            }
        }
        beside.add_all();
        beside.addition = {};
        finish_rows(sums, columns, first_row, rows, cout, finish, out);
    }
}

void convolve(const Plan& plan, const float* in, int64_t cin, const float* weight, int64_t cout,
              const Finish<float>& finish, float* out, int threads) {
    if (!tiles_pay(plan, cin, cout, 32) || !may_use_tiles())
        return avx512::single_precision.convolve(plan, in, cin, weight, cout, finish, out, threads);
    const int64_t chunks = (cin + DEPTH - 1) / DEPTH, panels = (cout + COLUMNS - 1) / COLUMNS;
    Lines packed(plan.offsets * panels * chunks * 3 * TILE);
#pragma omp parallel num_threads(threads)
    {
        pack(weight, plan.offsets, cin, cout, packed.data());
        convolve_packed<3>(plan, in, cin, packed.data(), cout, finish, out);
    }
}

void convolve_in_bfloat16(const Plan& plan, const float* in, int64_t cin, const bfloat16::Bfloat16* weight,
                          int64_t cout, const Finish<float>& finish, float* out, int threads) {
#pragma omp parallel num_threads(threads)
    convolve_packed<1>(plan, in, cin, reinterpret_cast<const Line*>(weight), cout, finish, out);
}

Kernels<float> with_tiles() {
    Kernels<float> kernels = avx512::single_precision;
    kernels.convolve = convolve;
    kernels.weight_gradient = weight_gradient;
    return kernels;
}

}  // namespace

const bfloat16::Convolve convolve_bfloat16 = convolve_in_bfloat16;
const Kernels<float> single_precision = with_tiles();

}  // namespace bifusion::tiles
