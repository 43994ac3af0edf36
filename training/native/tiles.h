// The GEMMs over kept rows, in tiles that stay in registers; kept rows are addressed, never copied together.
//
// A matrix that is read by rows is packed into strips, one for each vector of its columns: element (k, n) lies at
// [n / WIDTH][k][n % WIDTH].  A row of a strip is one aligned load, wherever the row before it was.
#pragma once

#include <ATen/cpu/vec/vec.h>

#include <algorithm>
#include <cstdint>

namespace gradsieve {

template <typename T>
using Vector = at::vec::Vectorized<T>;

// Elements of a vector register.
template <typename T>
constexpr int64_t WIDTH = Vector<T>::size();

// A tile has up to LANES x STRIPS vectors: accumulators, one row of strips and a factor fill the register file.
#if defined(CPU_CAPABILITY_AVX2)
constexpr int LANES = 4;
#else
constexpr int LANES = 8;
#endif
constexpr int STRIPS = 3;

template <typename T>
constexpr int64_t strips(int64_t columns) {
  return (columns + WIDTH<T> - 1) / WIDTH<T>;
}

// How many elements of the strip that begins at column `begin` exist.
template <typename T>
inline int64_t width_at(int64_t begin, int64_t columns) {
  return std::min<int64_t>(WIDTH<T>, columns - begin);
}

template <typename T>
inline Vector<T> load(const T* from, int64_t width) {
  return width == WIDTH<T> ? Vector<T>::loadu(from) : Vector<T>::loadu(from, width);
}

template <typename T>
inline void store(Vector<T> value, T* to, int64_t width) {
  if (width == WIDTH<T>)
    value.store(to);
  else
    value.store(to, static_cast<int>(width));
}

// Pack the rows from `begin` to below `end` of `from` (rows, columns) times `scale`; what the last strip lacks becomes 0.
template <typename T>
void pack_rows(const T* from, int64_t rows, int64_t columns, int64_t begin, int64_t end, T scale, T* to) {
  const Vector<T> factor(scale);
  for (int64_t k = begin; k < end; k++)
    for (int64_t strip = 0; strip < strips<T>(columns); strip++) {
      const int64_t n = strip * WIDTH<T>, width = width_at<T>(n, columns);
      auto row = load(from + k * columns + n, width);
      if (width < WIDTH<T>) row = Vector<T>::set(Vector<T>(T(0)), row, width);
      (row * factor).store(to + (strip * rows + k) * WIDTH<T>);
    }
}

// The way back: the rows from `begin` to below `end` of `to` (rows, columns).
template <typename T>
void unpack_rows(const T* from, int64_t rows, int64_t columns, int64_t begin, int64_t end, T* to) {
  for (int64_t k = begin; k < end; k++)
    for (int64_t strip = 0; strip < strips<T>(columns); strip++) {
      const int64_t n = strip * WIDTH<T>;
      store(Vector<T>::loadu(from + (strip * rows + k) * WIDTH<T>), to + k * columns + n, width_at<T>(n, columns));
    }
}

// Pack the strip `strip` of the transpose of `from` (columns, rows) times `scale`.
template <typename T>
void pack_transposed_strip(const T* from, int64_t rows, int64_t columns, int64_t strip, T scale, T* to) {
  const int64_t begin = strip * WIDTH<T>, width = width_at<T>(begin, columns);
  const T* first = from + begin * rows;
  const Vector<T> factor(scale);
  int64_t k = 0;
  if (width == WIDTH<T>) {
    for (; k + WIDTH<T> <= rows; k += WIDTH<T>) {
      at::vec::transpose_mxn<T, WIDTH<T>, WIDTH<T>>(first + k, rows, to + k * WIDTH<T>, WIDTH<T>);
      if (scale != 1)
        for (int64_t n = 0; n < WIDTH<T>; n++)
          (Vector<T>::loadu(to + (k + n) * WIDTH<T>) * factor).store(to + (k + n) * WIDTH<T>);
    }
  }
  for (; k < rows; k++)
    for (int64_t n = 0; n < WIDTH<T>; n++) to[k * WIDTH<T> + n] = n < width ? first[n * rows + k] * scale : T(0);
}

// Where the strips of a matrix lie: `stride` apart, their rows `row` apart.
template <typename T>
struct Strips {
  T* first;
  int64_t stride, row;

  static Strips packed(T* first, int64_t rows) { return {first, rows * WIDTH<T>, WIDTH<T>}; }
  static Strips in_place(T* first, int64_t columns) { return {first, WIDTH<T>, columns}; }
  T* at(int64_t strip, int64_t k) const { return first + strip * stride + k * row; }
  operator Strips<const T>() const { return {first, stride, row}; }
};

// The left factor of a product, element (m, k): lane m, row k.  `from(m)` begins at another lane.
template <typename T>
struct Lanes {  // one lane after the other
  const T* first;
  int64_t stride;

  T operator()(int64_t m, int64_t k) const { return first[m * stride + k]; }
  Lanes from(int64_t m) const { return {first + m * stride, stride}; }
};

template <typename T>
struct Panels {  // LANES rows of all lanes, then the next: products go along rows, updates along lanes
  const T* first;
  int64_t lanes;

  T operator()(int64_t m, int64_t k) const { return first[(k / LANES * lanes + m) * LANES + k % LANES]; }
  Panels from(int64_t m) const { return {first + m * LANES, lanes}; }
  const T* row(int64_t k) const { return first + k / LANES * lanes * LANES + k % LANES; }
  static int64_t size(int64_t lanes, int64_t rows) { return (rows + LANES - 1) / LANES * LANES * lanes; }
};

// out[m, n] = start[m, n] + sum over j < K of left(m, j) * right[rows[j], n] for M lanes m and N strips of columns n.
// With `BOTH`, left is indexed by rows[j] too.  out has `columns` columns, as has start.
template <int M, int N, bool BOTH, typename T, typename Left>
void product_tile(
    int64_t K, const int32_t* rows, Left left, Strips<const T> right, const T* start, int64_t start_stride, T* out,
    int64_t columns, const int32_t* strip) {
  Vector<T> sum[M][N];
  const T* from[N];
  for (int n = 0; n < N; n++) {
    const int64_t begin = strip[n] * WIDTH<T>, width = width_at<T>(begin, columns);
    from[n] = right.at(strip[n], 0);
    for (int m = 0; m < M; m++)
      sum[m][n] = start ? load(start + m * start_stride + begin, width) : Vector<T>(T(0));
  }
  for (int64_t j = 0; j < K; j++) {
    const int64_t row = rows[j] * right.row;
    Vector<T> value[N];
#pragma GCC unroll 4
    for (int n = 0; n < N; n++) value[n] = Vector<T>::loadu(from[n] + row);
#pragma GCC unroll 8
    for (int m = 0; m < M; m++) {
      const Vector<T> factor(left(m, BOTH ? rows[j] : j));
#pragma GCC unroll 4
      for (int n = 0; n < N; n++) sum[m][n] = at::vec::fmadd(factor, value[n], sum[m][n]);
    }
  }
  for (int n = 0; n < N; n++) {
    const int64_t begin = strip[n] * WIDTH<T>, width = width_at<T>(begin, columns);
    for (int m = 0; m < M; m++) store(sum[m][n], out + m * columns + begin, width);
  }
}

// out[rows[m], n] += sum over b < B of left[b * LANES + m] * right[b, n] for M rows m of a panel and N strips n.
template <int M, int N, typename T>
void update_tile(
    int64_t B, const int32_t* rows, const T* left, Strips<const T> right, Strips<T> out, const int32_t* strip) {
  Vector<T> sum[M][N];
  const T* from[N];
  for (int n = 0; n < N; n++) {
    from[n] = right.at(strip[n], 0);
    for (int m = 0; m < M; m++) sum[m][n] = Vector<T>::loadu(out.at(strip[n], rows[m]));
  }
  for (int64_t b = 0; b < B; b++) {
    Vector<T> value[N];
#pragma GCC unroll 4
    for (int n = 0; n < N; n++) value[n] = Vector<T>::loadu(from[n] + b * right.row);
#pragma GCC unroll 8
    for (int m = 0; m < M; m++) {
      const Vector<T> factor(left[b * LANES + m]);
#pragma GCC unroll 4
      for (int n = 0; n < N; n++) sum[m][n] = at::vec::fmadd(factor, value[n], sum[m][n]);
    }
  }
  for (int n = 0; n < N; n++)
    for (int m = 0; m < M; m++) sum[m][n].store(out.at(strip[n], rows[m]));
}

// Call `tile` with the sizes that cut `lanes` into tiles of at most LANES, as template arguments.
template <typename Tile>
void by_lanes(int64_t lanes, const Tile& tile) {
  int64_t m = 0;
  for (; m + LANES <= lanes; m += LANES) tile(std::integral_constant<int, LANES>(), m);
  if (m + 4 <= lanes) {
    tile(std::integral_constant<int, 4>(), m);
    m += 4;
  }
  if (m + 2 <= lanes) {
    tile(std::integral_constant<int, 2>(), m);
    m += 2;
  }
  if (m < lanes) tile(std::integral_constant<int, 1>(), m);
}

// Call `tile` with the number of strips, 1 to STRIPS, as a template argument.
template <typename Tile>
void by_strips(int64_t count, const Tile& tile) {
  static_assert(STRIPS == 3);
  if (count == 3)
    tile(std::integral_constant<int, 3>());
  else if (count == 2)
    tile(std::integral_constant<int, 2>());
  else
    tile(std::integral_constant<int, 1>());
}

// Into how many tiles `count` strips are cut, and where tile `number` begins: all as wide as they can be, none wider.
inline int64_t tiles(int64_t count) {
  return (count + STRIPS - 1) / STRIPS;
}
inline int64_t tile_begin(int64_t count, int64_t number) {
  return number * count / std::max<int64_t>(1, tiles(count));
}

// Call `tile` for the tiles from `begin` to below `end` of `count` strips: with the number of its strips, as a template
// argument, and the first of them.
template <typename Tile>
void by_tiles(int64_t count, int64_t begin, int64_t end, const Tile& tile) {
  for (int64_t n = begin; n < end; n++) {
    const int64_t first = tile_begin(count, n);
    by_strips(tile_begin(count, n + 1) - first, [&](auto width) { tile(width, first); });
  }
}

}  // namespace gradsieve
