#include "shares.h"

#include <algorithm>

namespace bifusion {
namespace {

std::vector<int64_t> pairs_of_offsets(const Plan& plan) {
    std::vector<int64_t> pairs(plan.offsets, 0);
    for (int64_t place = 0; place < plan.blocks * plan.offsets; ++place)
        pairs[place % plan.offsets] += plan.start[place + 1] - plan.start[place];
    return pairs;
}

}  // namespace

std::vector<std::vector<Share>> share_out(const Plan& plan, int64_t cin, int64_t step, int threads) {
    const std::vector<int64_t> pairs = pairs_of_offsets(plan);
    int64_t all = 0, most = 0;
    for (int64_t count : pairs) all += count, most = std::max(most, count);
    // no piece is more than half of what a thread has
    const int64_t pieces =
        threads == 1 || all == 0 ? 1 : std::clamp<int64_t>(2 * threads * most / all, 1, cin / step + 1);
    const int64_t rows = (cin + pieces * step - 1) / (pieces * step) * step;
    std::vector<Share> shares;
    for (int64_t offset = 0; offset < plan.offsets; ++offset)
        for (int64_t first = 0; pairs[offset] && first < cin; first += rows)
            shares.push_back({offset, first, std::min(rows, cin - first)});
    const auto work = [&](const Share& share) { return pairs[share.offset] * share.rows; };
    std::stable_sort(shares.begin(), shares.end(), [&](const Share& a, const Share& b) { return work(a) > work(b); });
    std::vector<std::vector<Share>> of_threads(threads);
    std::vector<int64_t> load(threads, 0);
    for (const Share& share : shares) {  // the largest first, each to who has least
        const int64_t least = std::min_element(load.begin(), load.end()) - load.begin();
        of_threads[least].push_back(share);
        load[least] += work(share);
    }
    return of_threads;
}

}  // namespace bifusion
