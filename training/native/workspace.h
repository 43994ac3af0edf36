// What both passes share: buffers, column masks by step, and how work is shared out to PyTorch's threads.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>

#include <cstring>
#include <numeric>
#include <optional>
#include <vector>

#include "tiles.h"

namespace gradsieve {

// Hands out parts of a block of memory, each on a cache line of its own; without a block it only adds up the sizes.
class Cursor {
 public:
  explicit Cursor(void* base) : base_(static_cast<char*>(base)) {}

  template <typename T>
  T* take(int64_t count) {
    T* place = reinterpret_cast<T*>(base_ + used_);
    used_ += (count * static_cast<int64_t>(sizeof(T)) + LINE - 1) / LINE * LINE;
    return place;
  }

  int64_t used() const { return used_; }

 private:
  static constexpr int64_t LINE = 64;
  char* base_;
  int64_t used_ = 0;
};

// The buffers `Buffers(cursor, sizes...)`, in `workspace` (bytes), which grows if it is too small.
template <typename Buffers, typename... Sizes>
Buffers buffers_in(at::Tensor& workspace, const Sizes&... sizes) {
  Cursor measure(nullptr);
  Buffers(measure, sizes...);
  if (workspace.numel() < measure.used()) workspace.resize_({measure.used()});
  Cursor cursor(workspace.data_ptr<uint8_t>());
  return Buffers(cursor, sizes...);
}

// The columns of x or h that exist at each step, from a mask (T, columns) bool; without a mask, all of them.
class Kept {
 public:
  template <typename T>
  static Kept of(const std::optional<at::Tensor>& mask, int64_t steps, int64_t columns, T) {
    Kept kept;
    kept.mask_ = mask ? mask->data_ptr<bool>() : nullptr;
    kept.columns_ = columns;
    const int64_t rows = mask ? steps : 1;
    for (int64_t t = 0; t < rows; t++) {
      kept.begin_column_.push_back(static_cast<int64_t>(kept.column_.size()));
      kept.begin_strip_.push_back(static_cast<int64_t>(kept.strip_.size()));
      int32_t last = -1;
      for (int32_t n = 0; n < columns; n++) {
        if (mask && !kept.mask_[t * columns + n]) continue;
        kept.column_.push_back(n);
        const auto strip = static_cast<int32_t>(n / WIDTH<T>);
        if (strip != last) kept.strip_.push_back(strip);
        last = strip;
      }
    }
    kept.begin_column_.push_back(static_cast<int64_t>(kept.column_.size()));
    kept.begin_strip_.push_back(static_cast<int64_t>(kept.strip_.size()));
    return kept;
  }

  bool all() const { return mask_ == nullptr; }
  // Of step t: the columns kept, and the strips that have any.
  const int32_t* columns(int64_t t) const { return column_.data() + begin_column_[row(t)]; }
  int64_t count(int64_t t) const { return begin_column_[row(t) + 1] - begin_column_[row(t)]; }
  // The strips from `first` to below `end` that have any, and how many they are.
  std::pair<const int32_t*, int64_t> strips(int64_t t, int64_t first, int64_t end) const {
    const auto* begin = strip_.data() + begin_strip_[row(t)];
    const auto* stop = strip_.data() + begin_strip_[row(t) + 1];
    begin = std::lower_bound(begin, stop, static_cast<int32_t>(first));
    return {begin, std::lower_bound(begin, stop, static_cast<int32_t>(end)) - begin};
  }
  // Set the columns from `begin` to below `end` that do not exist at step t to 0 in `values` (lanes, end - begin).
  template <typename T>
  void clear(int64_t t, T* values, int64_t lanes, int64_t stride, int64_t begin, int64_t end) const {
    if (all()) return;
    for (int64_t b = 0; b < lanes; b++)
      for (int64_t n = begin; n < end; n++)
        if (!mask_[t * columns_ + n]) values[b * stride + n - begin] = T(0);
  }

 private:
  int64_t row(int64_t t) const { return all() ? 0 : t; }

  const bool* mask_ = nullptr;
  int64_t columns_ = 0;
  std::vector<int32_t> column_, strip_;
  std::vector<int64_t> begin_column_, begin_strip_;
};

// Multiply-accumulates that are worth a thread of their own.
constexpr int64_t THREAD_WORK = 1 << 16;

// Run `work(begin, end)` over `count` parts of `cost` multiply-accumulates each, on as many threads as that is worth.
template <typename Work>
void share_out(int64_t count, int64_t cost, const Work& work) {
  at::parallel_for(0, count, std::max<int64_t>(1, THREAD_WORK / std::max<int64_t>(1, cost)), work);
}

}  // namespace gradsieve
