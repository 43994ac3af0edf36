// The sieve of one step (docs/arithmetic.md, training/methods/sieves.py): which gate rows are kept, and by what factor.
#pragma once

#include "workspace.h"

namespace gradsieve {

enum class Mode : int64_t { DENSE = 0, ELEMENT = 1, ROW = 2, STOCHASTIC = 3 };

// The largest 2^n by which the stochastic sieve scales a row; MAX_SHIFT is that of hw/config.py.
constexpr double LARGEST_GAIN = int64_t(1) << MAX_SHIFT;

// 2^n with the least n >= 0 for which score * 2^n >= tau; above LARGEST_GAIN where that would be.  1 for NaN.
template <typename T>
T gain(T score, T tau) {
  T result = 1;
  while (score * result < tau && result <= T(LARGEST_GAIN)) result *= 2;
  return result;
}

// What the sieve makes of the rows of one step, `tiles` batch tiles of 4H rows.
template <typename T>
struct Sieve {
  Mode mode;
  T tau;
  int64_t rows, tiles;

  // `score` (tiles, rows) to `kept` (tiles, rows), and in stochastic mode `factor` (tiles, rows), for which `draw`
  // (tiles, rows) has uniform numbers.  A row with a NaN is kept.  Returns how many rows any tile keeps; they are
  // listed in `row`.
  int64_t operator()(const T* score, const T* draw, bool* kept, T* factor, int32_t* row) const {
    for (int64_t n = 0; n < tiles * rows; n++) {
      if (mode == Mode::STOCHASTIC) {
        const T g = gain(score[n], tau);
        kept[n] = score[n] != 0 && !(g > T(LARGEST_GAIN)) && !(draw[n] * g >= 1);
        factor[n] = kept[n] ? g : T(0);
      } else {
        kept[n] = !(score[n] < tau || score[n] == 0);
      }
    }
    int64_t count = 0;
    for (int64_t k = 0; k < rows; k++) {
      bool any = kept[k];
      for (int64_t tile = 1; tile < tiles; tile++) any |= kept[tile * rows + k];
      row[count] = static_cast<int32_t>(k);
      count += any;
    }
    return count;
  }
};

}  // namespace gradsieve
