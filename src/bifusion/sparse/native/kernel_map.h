// Kernel maps: which input voxel lies at which offset of which output voxel, and the pairs in plan order.
//
// Voxel coordinates are (scene, x, y, z). The caller keeps them within ±2^20, so that coordinates times a
// stride plus the reach of a kernel fit 32 bits.
#pragma once
#include <array>
#include <cstdint>
#include <vector>

namespace bifusion {

using Key = std::array<int32_t, 4>;

// Distinct keys, numbered in the order in which they came: open addressing with linear probing, at most
// half full.
class KeySet {
  public:
    explicit KeySet(int64_t capacity);
    int32_t insert(const Key& key);      // its number, a new one if it was not there
    int32_t find(const Key& key) const;  // its number or -1

  private:
    uint64_t slot_of(const Key& key) const;
    std::vector<int32_t> slots_;
    std::vector<Key> keys_;
    uint64_t mask_;
};

// A set of voxels, searchable: blocks of 4 x 4 x 4 voxels in a hash table, one bit for each voxel of a
// block, so that a few look-ups find all neighbours of a voxel.
class VoxelIndex {
  public:
    VoxelIndex(const int32_t* coords, int64_t rows);
    bool distinct() const { return distinct_; }  // false: a voxel was given twice
    // table[m * K + k] = row of the voxel at out[m] * stride + offset k, or -1. K = kernel_size^3 offsets,
    // z fastest; centred for odd sizes, from 0 for even ones.
    void find_neighbours(const int32_t* out, int64_t out_rows, int32_t kernel_size, int32_t stride, int32_t* table,
                         int threads) const;

  private:
    struct Block {
        uint64_t occupied = 0;
        int64_t first = 0;  // where its voxels begin in rows_, in the order of their bits
    };
    const Block& block_at(const Key& key) const;
    KeySet keys_;
    std::vector<Block> blocks_;
    std::vector<int32_t> rows_;
    bool distinct_ = true;
};

// The pairs of a neighbour table by blocks of `block_rows` output rows, by offset within a block.
struct PairLists {
    std::vector<int32_t> pair_in, pair_out;
    std::vector<int64_t> start;
};
PairLists list_pairs(const int32_t* neighbours, int64_t rows, int64_t offsets, int64_t block_rows, int threads);

}  // namespace bifusion
