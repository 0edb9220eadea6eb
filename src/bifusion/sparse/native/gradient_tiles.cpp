// The gradient of a sparse convolution's weights in float32 on AMX's tiles, in three parts.
//
// Pairs are what is summed over, so that the input's rows have to be turned: a tile's row is a channel of 32
// pairs. The gradients of an offset stay in tiles over all pairs of a batch.
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
    const float* row(int32_t number) const { return values + number * channels; }

    // Rows are pairs, the second sixteen beside the first; Turned: channels. Zeros behind `count` rows.
    template <bool Turned>
    void gather(const int32_t* rows, int64_t count, int64_t panel, Line* out) const {
        __m512i low[16], high[16];
        const auto load = [&](int64_t row) {
            return row < count ? _mm512_loadu_si512(this->row(rows[row]) + panel * COLUMNS) : _mm512_setzero_si512();
        };
        for (int64_t row = 0; row < 16; ++row) low[row] = load(row);
        for (int64_t row = 0; row < 16; ++row) high[row] = load(16 + row);
        if constexpr (Turned) transpose(low), transpose(high);
        for (int64_t row = 0; row < 16; ++row) store_parts<PARTS>(low[row], high[row], out + row);
    }
};

// Of an offset, from blocks that go together as far as their rows stay in cache: it has few pairs in one, and
// its weights are fetched and stored for each batch.
struct Pairs {
    std::vector<int32_t> in, out;

    void collect(const Plan& plan, int64_t offset, int64_t block, int64_t end) {
        in.clear();
        out.clear();
        for (; block < end; ++block) {
            const int64_t* start = plan.start + block * plan.offsets + offset;
            in.insert(in.end(), plan.pair_in + start[0], plan.pair_in + start[1]);
            out.insert(out.end(), plan.pair_out + start[0], plan.pair_out + start[1]);
        }
    }
};

struct Nothing {
    void some() {}
};

// weights (rows, cout) += a^T b of the pairs from `first` on, `count` of them; a and b hold a batch's tiles by group,
// panel, part.
void add_batch(const Matrix& in, const Matrix& out_grad, const Share& share, const Pairs& pairs, int64_t first,
               int64_t count, Line* a, Line* b, float* weights) {
    const int64_t panels = share.rows / COLUMNS, cout = out_grad.channels, out_panels = cout / COLUMNS;
    const int64_t groups = (count + GROUP - 1) / GROUP, bytes = cout * sizeof(float);
    for (int64_t group = 0; group < groups; ++group) {
        const int64_t pair = first + group * GROUP, here = std::min(GROUP, count - group * GROUP);
        const int64_t after = std::min<int64_t>(pairs.in.size(), pair + 2 * GROUP);
        for (int64_t later = pair + GROUP; later < after; ++later) {
            prefetch(in.row(pairs.in[later]) + share.first_row, share.rows);
            prefetch(out_grad.row(pairs.out[later]), cout);
        }
        for (int64_t panel = 0; panel < panels; ++panel)
            in.gather<true>(pairs.in.data() + pair, here, share.first_row / COLUMNS + panel,
                            a + (group * panels + panel) * PANEL);
        for (int64_t panel = 0; panel < out_panels; ++panel)
            out_grad.gather<false>(pairs.out.data() + pair, here, panel, b + (group * out_panels + panel) * PANEL);
    }
    tiles_are_stored();
    Nothing nothing;
    for (int64_t row = 0; row < panels; row += 2)
        for (int64_t column = 0; column < out_panels; column += 2) {
            float *upper = weights + (row * cout + column) * COLUMNS, *lower = upper + COLUMNS * cout;
            _tile_loadd(0, upper, bytes);
            _tile_loadd(1, upper + COLUMNS, bytes);
            _tile_loadd(2, lower, bytes);
            _tile_loadd(3, lower + COLUMNS, bytes);
            for (int64_t group = 0; group < groups; ++group)
                add_product<PARTS, true, true>(a + (group * panels + row) * PANEL, PANEL,
                                               b + (group * out_panels + column) * PANEL, PANEL, nothing);
            _tile_stored(0, upper, bytes);
            _tile_stored(1, upper + COLUMNS, bytes);
            _tile_stored(2, lower, bytes);
            _tile_stored(3, lower + COLUMNS, bytes);
        }
}

void sum_up(const Plan& plan, const std::vector<Share>& shares, const Matrix& in, const Matrix& out_grad,
            float* gradient) {
    constexpr int64_t CACHED = 1 << 18;  // numbers
    const int64_t together = std::max<int64_t>(1, CACHED / ((in.channels + out_grad.channels) * plan.block_rows));
    Lines a(BATCH / GROUP * in.panels() * PANEL), b(BATCH / GROUP * out_grad.panels() * PANEL);
    Pairs pairs;
    const Tiles configured;
    for (int64_t block = 0; block < plan.blocks; block += together)
        for (const Share& share : shares) {
            float* weights = gradient + (share.offset * in.channels + share.first_row) * out_grad.channels;
            pairs.collect(plan, share.offset, block, std::min(plan.blocks, block + together));
            const int64_t all = pairs.in.size();
            for (int64_t first = 0; first < all; first += BATCH)
                add_batch(in, out_grad, share, pairs, first, std::min(BATCH, all - first), a.data(), b.data(), weights);
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
