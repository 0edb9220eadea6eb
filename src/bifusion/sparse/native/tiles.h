// What the kernels on AMX's tiles share. A tile is 16 rows of 64 bytes; two multiply in bfloat16 and sum in
// float32: (16, 32) by (32, 16), where the second operand has its rows in pairs, (16, 16, 2).
//
// A float32 is the sum of three bfloat16 that hold eight bits of its significand each, high, middle and low.
// Of the nine products of two such numbers the six that reach into float32's 24 bits are made; the rest, below
// 2^-22 of the whole, are left. Numbers below 2^-103 lose bits to that, as bfloat16 has no more small ones than
// float32; of infinities and NaN comes NaN.
#pragma once
#include <algorithm>

#include "lines.h"

namespace bifusion {

constexpr int64_t TILE = 16;  // lines

// Sixteen pairs (low, high) of float32, in Parts bfloat16 each, at out, out + TILE, ... A single part is rounded
// to nearest and keeps the order of 32 channels; of three, cut off, the pairs lie side by side.
template <int Parts>
inline void store_parts(__m512i low, __m512i high, Line* out) {
    if constexpr (Parts == 1) {
        _mm512_store_si512(out, (__m512i)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low));
    } else {
        const __m512i upper = _mm512_set1_epi32(0xFFFF0000);
        for (int part = 0;; ++part) {
            constexpr int OR_MASKED = 0xF8;  // a | (b & c)
            _mm512_store_si512(out + part * TILE,
                               _mm512_ternarylogic_epi32(_mm512_srli_epi32(low, 16), high, upper, OR_MASKED));
            if (part == Parts - 1) return;
            low = (__m512i)_mm512_sub_ps((__m512)low, (__m512)_mm512_and_si512(low, upper));
            high = (__m512i)_mm512_sub_ps((__m512)high, (__m512)_mm512_and_si512(high, upper));
        }
    }
}

// Asks for a row, which lies anywhere, so many pairs ahead of its use.
constexpr int64_t AHEAD = 32;
inline void prefetch(const float* row, int64_t channels) {
    for (int64_t channel = 0; channel < channels; channel += 16) __builtin_prefetch(row + channel);
}

// GCC before 13 does not know that loading a tile reads memory.
inline void tiles_are_stored() { asm volatile("" ::: "memory"); }

struct Tiles {
    Tiles() {
        struct alignas(64) {
            uint8_t palette = 1, start_row = 0, reserved[14] = {};
            uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
            uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
        } whole;
        _tile_loadconfig(&whole);
    }
    ~Tiles() { _tile_release(); }
    Tiles(const Tiles&) = delete;
};

// Tiles 0 to 3, (32, 32), += a (32, 32) * b (32, 32), each two times Parts tiles; only the first sixteen rows of a
// unless Tall, the first sixteen columns of b unless Wide. After every four products of tiles, which take
// longer than loading their operands, some of what goes on beside them is done.
template <int Parts, bool Tall, bool Wide, typename Beside>
inline void add_product(const Line* a, int64_t a_lower, const Line* b, int64_t b_right, Beside& beside) {
    const auto load_a = [&](int part) {
        _tile_loadd(4, a + part * TILE, 64);
        if constexpr (Tall) _tile_loadd(5, a + a_lower + part * TILE, 64);
    };
    const auto load_b = [&](int part) {
        _tile_loadd(6, b + part * TILE, 64);
        if constexpr (Wide) _tile_loadd(7, b + b_right + part * TILE, 64);
    };
    const auto multiply = [&] {
        _tile_dpbf16ps(0, 4, 6);
        if constexpr (Wide) _tile_dpbf16ps(1, 4, 7);
        if constexpr (Tall) _tile_dpbf16ps(2, 5, 6);
        if constexpr (Tall && Wide) _tile_dpbf16ps(3, 5, 7);
        beside.some();
    };
    load_a(0), load_b(Parts - 1), multiply();
    if constexpr (Parts == 3) {
        load_b(1), multiply();
        load_a(1), multiply();
        load_b(0), multiply();
        load_a(0), multiply();
        load_a(2), multiply();
    }
}
constexpr int products_of(int parts) { return parts == 3 ? 6 : 1; }

// Whether a layer has work enough that tiles are faster. What has less is computed as on every other x86
// processor, to the last bit, and so is a small training.
inline bool tiles_pay(const Plan& plan, int64_t cin, int64_t cout, int64_t fewest_channels) {
    const int64_t pairs = plan.start[plan.blocks * plan.offsets];
    return std::min(cin, cout) >= fewest_channels && pairs * cin * cout >= int64_t(1) << 27;
}

namespace tiles {
void weight_gradient(const Plan& plan, const float* in, int64_t cin, const float* out_grad, int64_t cout,
                     float* gradient, int threads);
}  // namespace tiles

}  // namespace bifusion
