// The forward pass of a layer that leaves a tape.
#pragma once

#include "workspace.h"

namespace gradsieve {

struct Sizes {
  int64_t H, I, B, T;
};

template <typename T>
Vector<T> sigmoid(Vector<T> z) {
  return Vector<T>(T(1)) / (Vector<T>(T(1)) + z.neg().exp());
}

template <typename T>
struct ForwardBuffers {
  // Tiles of strips that read the same lanes one after the other, as these stay in the first cache.
  static constexpr int64_t GROUP = 4;

  T *w_ih, *w_hh;  // w_ih: a group's strips, for each thread

  ForwardBuffers(Cursor& cursor, const Sizes& s, const int64_t& threads)
      : w_ih(cursor.take<T>(threads * group_size(s))),
        w_hh(cursor.take<T>(strips<T>(4 * s.H) * s.H * WIDTH<T>)) {}

  static int64_t group_size(const Sizes& s) { return GROUP * STRIPS * s.I * WIDTH<T>; }
};

template <typename T>
class Forward {
 public:
  // x (T, B, I), w_ih (4H, I), w_hh (4H, H), bias (4H) or null.  hs, cs (T + 1, B, H), of which the first are set;
  // gates (T, B, 4H) and tanh_c (T, B, H) are results.
  struct Arrays {
    const T *x, *w_ih, *w_hh, *bias;
    T *hs, *cs, *gates, *tanh_c;
  };

  Forward(Sizes sizes, Arrays arrays, Kept x_kept, Kept h_kept, ForwardBuffers<T> buffers)
      : s_(sizes), a_(arrays), x_kept_(std::move(x_kept)), h_kept_(std::move(h_kept)), buffers_(buffers) {}

  void run(T h_scale) {
    pack(h_scale);
    inputs();
    for (int64_t t = 0; t < s_.T; t++) {
      recurrence(t);
      activations(t);
    }
  }

 private:
  void pack(T h_scale) {
    const int64_t all = strips<T>(4 * s_.H);
    strip_.resize(all);
    std::iota(strip_.begin(), strip_.end(), 0);
    share_out(all, s_.H * WIDTH<T>, [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; n++)
        pack_transposed_strip(a_.w_hh, s_.H, 4 * s_.H, n, h_scale, buffers_.w_hh + n * s_.H * WIDTH<T>);
    });
  }

  // gates[t] = x[t] W_ih^T + bias, for all steps: a group of strips, packed when its turn comes, stays in the second cache.
  void inputs() {
    constexpr int64_t GROUP = ForwardBuffers<T>::GROUP;
    const int64_t all = strips<T>(4 * s_.H), count = tiles(all), groups = (count + GROUP - 1) / GROUP;
    const int64_t height = s_.I * WIDTH<T>;
    share_out(groups * s_.T, GROUP * STRIPS * height * s_.B, [&](int64_t begin, int64_t end) {
      T* packed = buffers_.w_ih + at::get_thread_num() * ForwardBuffers<T>::group_size(s_);
      for (int64_t task = begin; task < end; task++) {
        const int64_t t = task % s_.T, first = task / s_.T * GROUP, stop = std::min(count, first + GROUP);
        const int64_t strip = tile_begin(all, first);
        if (task == begin || t == 0)
          for (int64_t n = strip; n < tile_begin(all, stop); n++)
            pack_transposed_strip(a_.w_ih, s_.I, 4 * s_.H, n, T(1), packed + (n - strip) * height);
        multiply(
            x_kept_, t, {a_.x + t * s_.B * s_.I, s_.I}, Strips<T>::packed(packed - strip * height, s_.I), a_.bias, 0,
            first, stop);
      }
    });
  }

  // gates[t] += h[t - 1] W_hh^T.
  void recurrence(int64_t t) {
    share_out(tiles(strips<T>(4 * s_.H)), STRIPS * WIDTH<T> * s_.H * s_.B, [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; n++)  // the strips of one tile stay in the second cache for all lanes
        multiply(
            h_kept_, t, {a_.hs + t * s_.B * s_.H, s_.H}, Strips<T>::packed(buffers_.w_hh, s_.H),
            a_.gates + t * s_.B * 4 * s_.H, 4 * s_.H, n, n + 1);
    });
  }

  // gates[t] = start + left right, of the rows `kept` of both, for the tiles from `first` to below `end`.
  void multiply(
      const Kept& kept, int64_t t, Lanes<T> left, Strips<const T> right, const T* start, int64_t start_stride,
      int64_t first, int64_t end) {
    T* out = a_.gates + t * s_.B * 4 * s_.H;
    by_lanes(s_.B, [&](auto lanes, int64_t m) {
      by_tiles(strips<T>(4 * s_.H), first, end, [&](auto width, int64_t strip) {
        product_tile<lanes(), width(), true>(
            kept.count(t), kept.columns(t), left.from(m), right, start ? start + m * start_stride : nullptr,
            start_stride, out + m * 4 * s_.H, 4 * s_.H, strip_.data() + strip);
      });
    });
  }

  // From gates[t], not yet activated, and c[t - 1] to gates, c and h of step t.
  void activations(int64_t t) {
    const int64_t H = s_.H;
    share_out(strips<T>(H), 64 * s_.B * WIDTH<T>, [&](int64_t begin, int64_t end) {
      for (int64_t b = 0; b < s_.B; b++) {
        T* z = a_.gates + (t * s_.B + b) * 4 * H;
        const T* c_before = a_.cs + (t * s_.B + b) * H;
        T* c_now = a_.cs + ((t + 1) * s_.B + b) * H;
        T* h_now = a_.hs + ((t + 1) * s_.B + b) * H;
        T* tanh_c = a_.tanh_c + (t * s_.B + b) * H;
        for (int64_t n = begin * WIDTH<T>; n < std::min(end * WIDTH<T>, H); n += WIDTH<T>) {
          const int64_t width = width_at<T>(n, H);
          const auto i = sigmoid<T>(load(z + n, width)), f = sigmoid<T>(load(z + H + n, width));
          const auto g = load(z + 2 * H + n, width).tanh(), o = sigmoid<T>(load(z + 3 * H + n, width));
          const auto c = at::vec::fmadd(i, g, f * load(c_before + n, width));
          const auto tc = c.tanh();
          store(i, z + n, width);
          store(f, z + H + n, width);
          store(g, z + 2 * H + n, width);
          store(o, z + 3 * H + n, width);
          store(c, c_now + n, width);
          store(tc, tanh_c + n, width);
          store(o * tc, h_now + n, width);
        }
      }
    });
  }

  Sizes s_;
  Arrays a_;
  Kept x_kept_, h_kept_;
  ForwardBuffers<T> buffers_;
  std::vector<int32_t> strip_;
};

}  // namespace gradsieve
