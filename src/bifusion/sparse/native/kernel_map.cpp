#include "kernel_map.h"

#include <algorithm>
#include <cstring>

namespace bifusion {
namespace {

constexpr int SIDE_BITS = 2;
constexpr int32_t SIDE_MASK = (1 << SIDE_BITS) - 1;

// Two rounds of multiplication and shift (MurmurHash3's finaliser) over both halves of the key.
inline uint64_t hash(const Key& key) {
    uint64_t halves[2];
    std::memcpy(halves, key.data(), sizeof halves);
    uint64_t h = halves[0] * 0x9E3779B97F4A7C15ull ^ (halves[1] + 0x7F4A7C159E3779B9ull);
    h = (h ^ (h >> 33)) * 0xFF51AFD7ED558CCDull;
    h = (h ^ (h >> 33)) * 0xC4CEB9FE1A85EC53ull;
    return h ^ (h >> 33);
}

// Right shift of a negative number rounds down on every compiler we build with: floor division.
inline Key block_key(int32_t scene, int32_t x, int32_t y, int32_t z) {
    return {scene, x >> SIDE_BITS, y >> SIDE_BITS, z >> SIDE_BITS};
}

inline int bit_of(int32_t x, int32_t y, int32_t z) {
    return (x & SIDE_MASK) << 2 * SIDE_BITS | (y & SIDE_MASK) << SIDE_BITS | (z & SIDE_MASK);
}

inline int64_t set_bits_below(uint64_t bits, int bit) { return __builtin_popcountll(bits & ((1ull << bit) - 1)); }

}  // namespace

KeySet::KeySet(int64_t capacity) {
    size_t size = 16;
    while (size < 2 * (size_t)capacity) size *= 2;
    mask_ = size - 1;
    slots_.assign(size, -1);
}

uint64_t KeySet::slot_of(const Key& key) const {
    uint64_t slot = hash(key) & mask_;
    while (slots_[slot] >= 0 && keys_[slots_[slot]] != key) slot = (slot + 1) & mask_;
    return slot;
}

int32_t KeySet::insert(const Key& key) {
    int32_t& slot = slots_[slot_of(key)];
    if (slot < 0) {
        slot = (int32_t)keys_.size();
        keys_.push_back(key);
    }
    return slot;
}

int32_t KeySet::find(const Key& key) const { return slots_[slot_of(key)]; }

VoxelIndex::VoxelIndex(const int32_t* coords, int64_t rows) : keys_(rows), rows_(rows) {
    std::vector<int32_t> block_of(rows);
    for (int64_t row = 0; row < rows; ++row) {
        const int32_t* c = coords + 4 * row;
        block_of[row] = keys_.insert(block_key(c[0], c[1], c[2], c[3]));
        if ((size_t)block_of[row] == blocks_.size()) blocks_.emplace_back();
        const uint64_t bit = 1ull << bit_of(c[1], c[2], c[3]);
        distinct_ = distinct_ && !(blocks_[block_of[row]].occupied & bit);
        blocks_[block_of[row]].occupied |= bit;
    }
    int64_t first = 0;
    for (Block& block : blocks_) {
        block.first = first;
        first += __builtin_popcountll(block.occupied);
    }
    for (int64_t row = 0; row < rows; ++row) {
        const int32_t* c = coords + 4 * row;
        const Block& block = blocks_[block_of[row]];
        rows_[block.first + set_bits_below(block.occupied, bit_of(c[1], c[2], c[3]))] = (int32_t)row;
    }
}

const VoxelIndex::Block& VoxelIndex::block_at(const Key& key) const {
    static const Block nothing;
    const int32_t number = keys_.find(key);
    return number < 0 ? nothing : blocks_[number];
}

void VoxelIndex::find_neighbours(const int32_t* out, int64_t out_rows, int32_t kernel_size, int32_t stride,
                                 int32_t* table, int threads) const {
    const int32_t reach = kernel_size - 1, first = kernel_size % 2 ? -(kernel_size / 2) : 0;
    const int64_t offsets = (int64_t)kernel_size * kernel_size * kernel_size;
    const int span = (reach + SIDE_MASK) / (SIDE_MASK + 1) + 1;  // blocks that a row of kernel_size can touch
#pragma omp parallel num_threads(threads)
    {
        std::vector<const Block*> near(span * span * span);
#pragma omp for schedule(static)
        for (int64_t m = 0; m < out_rows; ++m) {
            const int32_t* c = out + 4 * m;
            const int32_t x0 = c[1] * stride + first, y0 = c[2] * stride + first, z0 = c[3] * stride + first;
            const Key low = block_key(c[0], x0, y0, z0), high = block_key(c[0], x0 + reach, y0 + reach, z0 + reach);
            for (int32_t x = low[1]; x <= high[1]; ++x)
                for (int32_t y = low[2]; y <= high[2]; ++y)
                    for (int32_t z = low[3]; z <= high[3]; ++z)
                        near[((x - low[1]) * span + y - low[2]) * span + z - low[3]] = &block_at({c[0], x, y, z});
            int32_t* entry = table + m * offsets;
            for (int32_t x = x0; x <= x0 + reach; ++x)
                for (int32_t y = y0; y <= y0 + reach; ++y) {
                    const int64_t column = (((x >> SIDE_BITS) - low[1]) * span + (y >> SIDE_BITS) - low[2]) * span;
                    for (int32_t z = z0; z <= z0 + reach; ++z) {
                        const Block& block = *near[column + (z >> SIDE_BITS) - low[3]];
                        const int bit = bit_of(x, y, z);
                        const bool met = block.occupied >> bit & 1;
                        *entry++ = met ? rows_[block.first + set_bits_below(block.occupied, bit)] : -1;
                    }
                }
        }
    }
}

PairLists list_pairs(const int32_t* neighbours, int64_t rows, int64_t offsets, int64_t block_rows, int threads) {
    const int64_t blocks = (rows + block_rows - 1) / block_rows;
    PairLists lists;
    lists.start.assign(blocks * offsets + 1, 0);
#pragma omp parallel num_threads(threads)
    {
        std::vector<int32_t> count(offsets);
#pragma omp for schedule(static)
        for (int64_t block = 0; block < blocks; ++block) {
            std::fill(count.begin(), count.end(), 0);
            for (int64_t m = block * block_rows; m < std::min(rows, (block + 1) * block_rows); ++m)
                for (int64_t k = 0; k < offsets; ++k) count[k] += neighbours[m * offsets + k] >= 0;
            std::copy(count.begin(), count.end(), lists.start.begin() + block * offsets + 1);
        }
    }
    for (size_t i = 1; i < lists.start.size(); ++i) lists.start[i] += lists.start[i - 1];
    lists.pair_in.resize(lists.start.back());
    lists.pair_out.resize(lists.start.back());
#pragma omp parallel num_threads(threads)
    {
        std::vector<int64_t> next(offsets);
#pragma omp for schedule(static)
        for (int64_t block = 0; block < blocks; ++block) {
            std::copy_n(lists.start.begin() + block * offsets, offsets, next.begin());
            for (int64_t m = block * block_rows; m < std::min(rows, (block + 1) * block_rows); ++m)
                for (int64_t first = 0; first < offsets; first += 64) {
                    const int32_t* row = neighbours + m * offsets + first;
                    uint64_t met = 0;  // most entries are empty: a word of bits spares a branch for each
                    for (int64_t k = 0; k < std::min<int64_t>(64, offsets - first); ++k)
                        met |= (uint64_t)(row[k] >= 0) << k;
                    for (; met; met &= met - 1) {
                        const int k = __builtin_ctzll(met);
                        lists.pair_in[next[first + k]] = row[k];
                        lists.pair_out[next[first + k]++] = (int32_t)m;
                    }
                }
        }
    }
    return lists;
}

}  // namespace bifusion
