// The backward pass of a layer: gate gradients, sieve, and GEMMs over the rows and columns that are kept.
#pragma once

#include <chrono>

#include "forward.h"
#include "sieve.h"

namespace gradsieve {

// Seconds since this was made, for the share of time in GEMMs.
class Clock {
 public:
  double seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - begun_).count(); }

 private:
  std::chrono::steady_clock::time_point begun_ = std::chrono::steady_clock::now();
};

template <typename T>
struct BackwardBuffers {
  // `packed`: w_hh, then w_ih, then dw_ih, then dw_hh.
  T *packed, *values, *dz, *score, *factor, *kept_dz;
  int32_t* rows;

  BackwardBuffers(Cursor& cursor, const Sizes& s, const int64_t& tiles)
      : packed(cursor.take<T>(strips<T>(std::max(s.H, s.I)) * 4 * s.H * WIDTH<T>)),
        values(cursor.take<T>(strips<T>(std::max(s.H, s.I)) * s.T * s.B * WIDTH<T>)),
        dz(cursor.take<T>(s.B * 4 * s.H)),
        score(cursor.take<T>(tiles * 4 * s.H)),
        factor(cursor.take<T>(tiles * 4 * s.H)),
        kept_dz(cursor.take<T>(s.T * Panels<T>::size(s.B, 4 * s.H))),
        rows(cursor.take<int32_t>(s.T * 4 * s.H)) {}
};

template <typename T>
class Backward {
 public:
  // As `Forward::Arrays` and the operator's arguments (library.cpp).  dx may be null.
  struct Arrays {
    const T *x, *hs, *cs, *gates, *tanh_c, *dy, *w_ih, *w_hh, *draws;
    T *dx, *dh, *dc, *dw_ih, *dw_hh, *db;
    bool* rows;
  };

  Backward(
      Sizes sizes, int64_t lanes, Mode mode, T tau, Arrays arrays, Kept x_kept, Kept h_kept,
      BackwardBuffers<T> buffers)
      : s_(sizes), lanes_(lanes), tiles_((sizes.B + lanes - 1) / lanes), sieve_{mode, tau, 4 * sizes.H, tiles_},
        a_(arrays), x_kept_(std::move(x_kept)), h_kept_(std::move(h_kept)), b_(buffers), count_(sizes.T) {}

  int64_t elements = 0;
  double gemm_seconds = 0;

  // dh and dc (B, H) hold the gradients of the last state before, those of the first one after.
  void run(T h_scale) {
    pack(a_.w_hh, 4 * s_.H, s_.H, h_scale, b_.packed);
    T* kept_dz = b_.kept_dz;
    for (int64_t t = s_.T - 1; t >= 0; t--) {
      gate_gradients(t);
      choose_rows(t);
      compact(t, kept_dz);
      recurrence(t, kept_dz);
      kept_dz += Panels<T>::size(s_.B, count_[t]);
    }
    if (a_.dx) inputs();
    weights(x_kept_, a_.x, s_.I, T(1), a_.dw_ih);
    weights(h_kept_, a_.hs, s_.H, h_scale, a_.dw_hh);
  }

 private:
  const int32_t* rows(int64_t t) const { return b_.rows + t * 4 * s_.H; }
  Strips<T> packed() const { return Strips<T>::packed(b_.packed, 4 * s_.H); }

  // Rows that are packed in one go: so many elements are a page of a strip.
  static constexpr int64_t BLOCK = 64;

  static void pack(const T* from, int64_t rows, int64_t columns, T scale, T* to) {
    share_out((rows + BLOCK - 1) / BLOCK, BLOCK * columns, [&](int64_t begin, int64_t end) {
      pack_rows(from, rows, columns, begin * BLOCK, std::min(rows, end * BLOCK), scale, to);
    });
  }

  // dz of step t, the scores of its rows, and dc of the step before.
  void gate_gradients(int64_t t) {
    const int64_t H = s_.H;
    const bool elements_only = sieve_.mode == Mode::ELEMENT, scored = sieve_.mode != Mode::DENSE;
    const Vector<T> zero(T(0)), tau(sieve_.tau);
    share_out(strips<T>(H), 32 * s_.B * WIDTH<T>, [&](int64_t begin, int64_t end) {
      for (int64_t b = 0; b < s_.B; b++) {
        const int64_t at = t * s_.B + b;
        const T *z = a_.gates + at * 4 * H, *c_before = a_.cs + at * H, *tanh_c = a_.tanh_c + at * H;
        const T *dy = a_.dy + at * H, *dh_after = a_.dh + b * H;
        T *dc_after = a_.dc + b * H, *dz = b_.dz + b * 4 * H, *score = b_.score + b / lanes_ * 4 * H;
        const bool first = b % lanes_ == 0;
        const int64_t next = b + 1 < s_.B ? 1 : t ? 1 - 2 * s_.B : 0;  // the lane that comes after this one
        for (int64_t n = begin * WIDTH<T>; n < std::min(end * WIDTH<T>, H); n += WIDTH<T>) {
          const int64_t width = width_at<T>(n, H);
          for (int q = 0; q < 4; q++) __builtin_prefetch(z + next * 4 * H + q * H + n);
          for (const T* v : {c_before, tanh_c, dy}) __builtin_prefetch(v + next * H + n);
          const auto i = load(z + n, width), f = load(z + H + n, width), g = load(z + 2 * H + n, width);
          const auto o = load(z + 3 * H + n, width), tc = load(tanh_c + n, width);
          const auto dh = load(dh_after + n, width) + load(dy + n, width);
          const auto dc = load(dc_after + n, width) + dh * (o - o * tc * tc);
          Vector<T> gate[4] = {
              dc * (g * (i - i * i)), dc * (load(c_before + n, width) * (f - f * f)), dc * (i - i * g * g),
              dh * (tc * (o - o * o))};
          store(dc * f, dc_after + n, width);
          for (int q = 0; q < 4; q++) {
            if (scored) {
              const auto magnitude = gate[q].abs();
              T* best = score + q * H + n;
              store(first ? magnitude : at::vec::maximum(load(best, width), magnitude), best, width);
              if (elements_only) gate[q] = Vector<T>::blendv(gate[q], zero, magnitude < tau);
            }
            store(gate[q], dz + q * H + n, width);
          }
        }
      }
    });
  }

  void choose_rows(int64_t t) {
    int32_t* row = b_.rows + t * 4 * s_.H;
    if (sieve_.mode == Mode::DENSE) {
      std::iota(row, row + 4 * s_.H, 0);
      count_[t] = 4 * s_.H;
      return;
    }
    const int64_t at = t * tiles_ * 4 * s_.H;
    count_[t] = sieve_(b_.score, a_.draws ? a_.draws + at : nullptr, a_.rows + at, b_.factor, row);
  }

  // dz' of the rows kept to the panels `kept_dz`; db and the number of elements that are not zero.
  void compact(int64_t t, T* kept_dz) {
    const int64_t count = count_[t], H4 = 4 * s_.H;
    const bool many = tiles_ > 1 && sieve_.mode != Mode::DENSE, scaled = sieve_.mode == Mode::STOCHASTIC;
    const bool* kept = a_.rows + t * tiles_ * H4;
    int64_t nonzero = 0;
    for (int64_t first = 0; first < count; first += LANES) {
      const int32_t* row = rows(t) + first;
      const int64_t height = std::min<int64_t>(LANES, count - first);
      T sum[LANES] = {};
      for (int64_t b = 0; b < s_.B; b++, kept_dz += LANES) {
        const T* from = b_.dz + b * H4;
        const int64_t tile = b / lanes_ * H4;
        for (int64_t j = 0; j < height; j++) {
          T value = from[row[j]];
          if (scaled) value *= b_.factor[tile + row[j]];
          if (many && !kept[tile + row[j]]) value = T(0);
          kept_dz[j] = value;
          sum[j] += value;
          nonzero += value != 0;
        }
      }
      for (int64_t j = 0; j < height; j++) a_.db[row[j]] += sum[j];
    }
    elements += sieve_.mode == Mode::DENSE ? s_.B * count : nonzero;
  }

  // dh of the step before t: dz' W_hh, of the columns of h that step t read.  A tile's strips stay in the second cache.
  void recurrence(int64_t t, const T* kept_dz) {
    const Clock clock;
    const auto live = h_kept_.strips(t, 0, strips<T>(s_.H));
    if (!h_kept_.all()) std::memset(a_.dh, 0, s_.B * s_.H * sizeof(T));
    share_out(tiles(live.second), STRIPS * WIDTH<T> * count_[t] * s_.B, [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; n++)
        by_lanes(s_.B, [&](auto lanes, int64_t m) {
          errors<lanes()>(t, m, kept_dz, a_.dh, s_.H, live.first, live.second, n, n + 1);
        });
    });
    h_kept_.clear(t, a_.dh, s_.B, s_.H, 0, s_.H);
    gemm_seconds += clock.seconds();
  }

  // For M lanes from m, tiles `begin` to `end` of the product of dz' of step t with the packed weights, of the `count`
  // strips listed; `out` (B, columns).
  template <int M>
  void errors(
      int64_t t, int64_t m, const T* kept_dz, T* out, int64_t columns, const int32_t* strip, int64_t count,
      int64_t begin, int64_t end) {
    by_tiles(count, begin, end, [&](auto width, int64_t first) {
      product_tile<M, width(), false>(
          count_[t], rows(t), Panels<T>{kept_dz, s_.B}.from(m), Strips<const T>(packed()),
          static_cast<const T*>(nullptr), 0, out + m * columns, columns, strip + first);
    });
  }

  // dx of all steps: dz' W_ih, of the columns that exist.  The strips of a tile stay in the second cache.
  void inputs() {
    pack(a_.w_ih, 4 * s_.H, s_.I, T(1), b_.packed);
    const Clock clock;
    if (!x_kept_.all()) std::memset(a_.dx, 0, s_.T * s_.B * s_.I * sizeof(T));
    over_groups(x_kept_, s_.I, [&](int64_t t, const T* kept_dz, const int32_t* strip, int64_t count) {
      by_lanes(s_.B, [&](auto lanes, int64_t m) {
        errors<lanes()>(t, m, kept_dz, a_.dx + t * s_.B * s_.I, s_.I, strip, count, 0, tiles(count));
      });
    });
    for (int64_t t = 0; t < s_.T; t++) x_kept_.clear(t, a_.dx + t * s_.B * s_.I, s_.B, s_.I, 0, s_.I);
    gemm_seconds += clock.seconds();
  }

  // dW (4H, columns) = sum of dz'^T v over all steps, of the rows kept and the columns of v (T, B, columns) that exist.
  void weights(const Kept& kept, const T* values, int64_t columns, T scale, T* dw) {
    const int64_t height = 4 * s_.H, padded = strips<T>(columns) * WIDTH<T>;
    const bool aligned = kept.all() && columns == padded;  // then strips can be read where they are
    if (!aligned) pack_values(kept, values, columns, scale);
    const auto right = aligned ? Strips<const T>::in_place(values, columns)
                               : Strips<const T>(Strips<T>::packed(b_.values, s_.T * s_.B));
    const auto sums = packed();
    const Clock clock;
    share_out(height, padded, [&](int64_t begin, int64_t end) {
      std::memset(sums.first + begin * padded, 0, (end - begin) * padded * sizeof(T));
    });
    over_groups(kept, columns, [&](int64_t t, const T* kept_dz, const int32_t* strip, int64_t count) {
      const Strips<const T> step{right.at(0, t * s_.B), right.stride, right.row};
      by_lanes(count_[t], [&](auto m_rows, int64_t m) {
        by_tiles(count, 0, tiles(count), [&](auto width, int64_t at) {
          update_tile<m_rows(), width()>(
              s_.B, rows(t) + m, Panels<T>{kept_dz, s_.B}.row(m), step, sums, strip + at);
        });
      });
    });
    gemm_seconds += clock.seconds();
    share_out((height + BLOCK - 1) / BLOCK, BLOCK * columns, [&](int64_t begin, int64_t end) {
      unpack_rows(b_.packed, height, columns, begin * BLOCK, std::min(height, end * BLOCK), dw);
    });
  }

  // `values` (T, B, columns) times `scale`, packed, the columns that do not exist at 0.
  void pack_values(const Kept& kept, const T* values, int64_t columns, T scale) {
    const int64_t depth = s_.T * s_.B;
    pack(values, depth, columns, scale, b_.values);
    for (int64_t n = 0; n < strips<T>(columns); n++)
      for (int64_t t = 0; t < s_.T; t++)
        kept.clear(
            t, b_.values + (n * depth + t * s_.B) * WIDTH<T>, s_.B, WIDTH<T>, n * WIDTH<T>,
            std::min(columns, (n + 1) * WIDTH<T>));
  }

  // Tiles that read the same dz' one after the other, as it stays in the first cache.
  static constexpr int64_t GROUP = 2;

  // Call `work(t, dz', strips, count)` for all steps of every group of tiles of `columns` columns, with the strips of it
  // that have any.
  template <typename Work>
  void over_groups(const Kept& kept, int64_t columns, const Work& work) {
    const int64_t all = strips<T>(columns), count = tiles(all), groups = (count + GROUP - 1) / GROUP;
    share_out(groups, GROUP * STRIPS * WIDTH<T> * s_.T * s_.B * count_[0], [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; n++) {
        const int64_t first = tile_begin(all, n * GROUP), stop = tile_begin(all, std::min(count, (n + 1) * GROUP));
        const T* kept_dz = b_.kept_dz;
        for (int64_t t = s_.T - 1; t >= 0; t--) {
          const auto live = kept.strips(t, first, stop);
          if (live.second) work(t, kept_dz, live.first, live.second);
          kept_dz += Panels<T>::size(s_.B, count_[t]);
        }
      }
    });
  }

  Sizes s_;
  int64_t lanes_, tiles_;
  Sieve<T> sieve_;
  Arrays a_;
  Kept x_kept_, h_kept_;
  BackwardBuffers<T> b_;
  std::vector<int64_t> count_;
};

}  // namespace gradsieve
