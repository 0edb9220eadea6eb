// The gradient of a sparse convolution's weights in float32 on AMX's tiles, in three parts.
//
// Pairs are what is summed over, so that the input's rows have to be turned: a tile's row is a channel of 32
// pairs. The gradients of an offset stay in tiles over all pairs of a batch; meanwhile the next is gathered.
#include <algorithm>
#include <vector>

#include "processor.h"
#include "shares.h"
#include "tiles.h"

namespace bifusion::tiles {
namespace {

constexpr int64_t PARTS = 3;
constexpr int64_t PANEL = PARTS * TILE;  // lines of 16 channels of a group
constexpr int64_t BATCH = 4 * GROUP;     // pairs

// Sixteen rows of sixteen 32-bit numbers: rows become columns.
inline void transpose(__m512i* rows) {
    __m512i two[16], four[16];
    for (int i = 0; i < 16; i += 2) {
        two[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        two[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        four[i] = _mm512_unpacklo_epi64(two[i], two[i + 2]);
        four[i + 1] = _mm512_unpackhi_epi64(two[i], two[i + 2]);
        four[i + 2] = _mm512_unpacklo_epi64(two[i + 1], two[i + 3]);
        four[i + 3] = _mm512_unpackhi_epi64(two[i + 1], two[i + 3]);
    }
    // Quarter q of four[i + c] holds column 4 q + c of rows i to i + 3.
    for (int c = 0; c < 4; ++c) {
        constexpr int FRONT = 0x44, BACK = 0xEE, EVEN = 0x88, ODD = 0xDD;  // quarters of each
        const __m512i front_low = _mm512_shuffle_i32x4(four[c], four[4 + c], FRONT);
        const __m512i front_high = _mm512_shuffle_i32x4(four[8 + c], four[12 + c], FRONT);
        const __m512i back_low = _mm512_shuffle_i32x4(four[c], four[4 + c], BACK);
        const __m512i back_high = _mm512_shuffle_i32x4(four[8 + c], four[12 + c], BACK);
        rows[c] = _mm512_shuffle_i32x4(front_low, front_high, EVEN);
        rows[4 + c] = _mm512_shuffle_i32x4(front_low, front_high, ODD);
        rows[8 + c] = _mm512_shuffle_i32x4(back_low, back_high, EVEN);
        rows[12 + c] = _mm512_shuffle_i32x4(back_low, back_high, ODD);
    }
}

// A matrix (., channels), channels a multiple of 16, gathered 32 rows and 16 channels at a time.
struct Matrix {
    const float* values;
    int64_t channels;
    int64_t panels() const { return channels / COLUMNS; }

    // Rows are pairs, the second sixteen beside the first; Turned: channels. Zeros behind `count` rows.
    template <bool Turned>
    void gather(const int32_t* rows, int64_t count, int64_t panel, Line* out) const {
        __m512i low[16], high[16];
        const auto load = [&](int64_t row) {
            return row < count ? _mm512_loadu_si512(values + rows[row] * channels + panel * COLUMNS)
                               : _mm512_setzero_si512();
        };
        for (int64_t row = 0; row < 16; ++row) low[row] = load(row);
        for (int64_t row = 0; row < 16; ++row) high[row] = load(16 + row);
        if constexpr (Turned) transpose(low), transpose(high);
        for (int64_t row = 0; row < 16; ++row) store_parts<PARTS>(low[row], high[row], out + row);
    }
};

// Pairs of one share.
struct Batch {
    Share share;
    int64_t first, count;
    int64_t groups() const { return (count + GROUP - 1) / GROUP; }
    int64_t panels() const { return share.rows / COLUMNS; }
};

// The pairs of a batch on their way into tiles by group, panel, part; a panel of a group at a time.
struct Gather {
    Matrix in, out_grad;
    const int32_t *pair_in, *pair_out, *end;  // all pairs'
    Batch batch{};
    Line *a = nullptr, *b = nullptr;
    int64_t every = 1, turn = 0, pair = 0, panel = 0;

    void begin(const Batch& of, Line* to_a, Line* to_b) {
        batch = of, a = to_a, b = to_b, pair = 0;
        every = std::max<int64_t>(
            1, products_of(PARTS) * batch.panels() * out_grad.panels() / 4 / (batch.panels() + out_grad.panels()));
    }
    void one() {
        const int32_t *rows_in = pair_in + batch.first + pair, *rows_out = pair_out + batch.first + pair;
        if (panel == 0) ask_for(rows_in + GROUP, rows_out + GROUP);
        const int64_t count = std::min(GROUP, batch.count - pair), group = pair / GROUP, panels = batch.panels();
        if (panel < panels)
            in.gather<true>(rows_in, count, batch.share.first_row / COLUMNS + panel,
                            a + (group * panels + panel) * PANEL);
        else
            out_grad.gather<false>(rows_out, count, panel - panels,
                                   b + (group * out_grad.panels() + panel - panels) * PANEL);
        if (++panel == panels + out_grad.panels()) panel = 0, pair += GROUP;
    }
    void ask_for(const int32_t* rows_in, const int32_t* rows_out) const {
        for (int64_t i = 0; i < GROUP && rows_in + i < end; ++i) {
            prefetch(in.values + rows_in[i] * in.channels + batch.share.first_row, batch.share.rows);
            prefetch(out_grad.values + rows_out[i] * out_grad.channels, out_grad.channels);
        }
    }
    void some() {
        if (++turn % every == 0 && pair < batch.count) one();
    }
    void all() {
        while (pair < batch.count) one();
        tiles_are_stored();
    }
};

std::vector<Batch> list_batches(const Plan& plan, const std::vector<Share>& shares) {
    std::vector<Batch> batches;
    for (int64_t block = 0; block < plan.blocks; ++block)
        for (const Share& share : shares) {
            const int64_t* start = plan.start + block * plan.offsets + share.offset;
            for (int64_t first = start[0]; first < start[1]; first += BATCH)
                batches.push_back({share, first, std::min(BATCH, start[1] - first)});
        }
    return batches;
}

// weights (share's rows, cout) += a^T b of a batch.
void add_batch(const Batch& batch, const Line* a, const Line* b, float* weights, Gather& beside) {
    const int64_t panels = batch.panels(), cout = beside.out_grad.channels, out_panels = cout / COLUMNS;
    const int64_t bytes = cout * sizeof(float);
    for (int64_t row = 0; row < panels; row += 2)
        for (int64_t column = 0; column < out_panels; column += 2) {
            float *upper = weights + (row * cout + column) * COLUMNS, *lower = upper + COLUMNS * cout;
            _tile_loadd(0, upper, bytes);
            _tile_loadd(1, upper + COLUMNS, bytes);
            _tile_loadd(2, lower, bytes);
            _tile_loadd(3, lower + COLUMNS, bytes);
            for (int64_t group = 0; group < batch.groups(); ++group)
                add_product<PARTS, true, true>(a + (group * panels + row) * PANEL, PANEL,
                                               b + (group * out_panels + column) * PANEL, PANEL, beside);
            _tile_stored(0, upper, bytes);
            _tile_stored(1, upper + COLUMNS, bytes);
            _tile_stored(2, lower, bytes);
            _tile_stored(3, lower + COLUMNS, bytes);
        }
}

void sum_up(const Plan& plan, const std::vector<Share>& shares, const Matrix& in, const Matrix& out_grad,
            float* gradient) {
    constexpr int64_t GROUPS = BATCH / GROUP;
    const int64_t a_lines = GROUPS * in.panels() * PANEL, b_lines = GROUPS * out_grad.panels() * PANEL;
    Lines a(2 * a_lines), b(2 * b_lines);
    const std::vector<Batch> batches = list_batches(plan, shares);
    const int32_t* end = plan.pair_in + plan.start[plan.blocks * plan.offsets];
    Gather gather{in, out_grad, plan.pair_in, plan.pair_out, end};
    const Tiles configured;
    for (size_t next = 0; next <= batches.size(); ++next) {
        gather.all();
        const Line *ready_a = gather.a, *ready_b = gather.b;
        if (next < batches.size())
            gather.begin(batches[next], a.data() + next % 2 * a_lines, b.data() + next % 2 * b_lines);
        if (next == 0) continue;
        const Batch& batch = batches[next - 1];
        const int64_t first = batch.share.offset * in.channels + batch.share.first_row;
        add_batch(batch, ready_a, ready_b, gradient + first * out_grad.channels, gather);
    }
}

}  // namespace

void weight_gradient(const Plan& plan, const float* in, int64_t cin, const float* out_grad, int64_t cout,
                     float* gradient, int threads) {
    if (cin % DEPTH || cout % DEPTH || !tiles_pay(plan, cin, cout, 64) || !may_use_tiles())
        return avx512::single_precision.weight_gradient(plan, in, cin, out_grad, cout, gradient, threads);
    const auto shares = share_out(plan, cin, DEPTH, threads);
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (size_t thread = 0; thread < shares.size(); ++thread)
        sum_up(plan, shares[thread], {in, cin}, {out_grad, cout}, gradient);
}

}  // namespace bifusion::tiles
