// The operators `gradsieve::lstm_forward` and `gradsieve::lstm_backward` for float32 and float64 on a CPU.
// `gradsieve.training.native` builds and calls them; tensors are contiguous and of one dtype, masks bool.
#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <cmath>

#include "backward.h"

namespace gradsieve {
namespace {

using at::Tensor;
using Mask = std::optional<Tensor>;

// x (T, B, I), masked and scaled; h0, c0 (B, H); w_ih (4H, I), w_hh (4H, H), bias (4H); masks (T, I) and (T, H).
// Returns hs, cs (T + 1, B, H), gates (T, B, 4H), tanh_c (T, B, H).
std::tuple<Tensor, Tensor, Tensor, Tensor> lstm_forward(
    const Tensor& x, const Tensor& h0, const Tensor& c0, const Tensor& w_ih, const Tensor& w_hh, const Mask& bias,
    const Mask& x_mask, const Mask& h_mask, double h_scale, Tensor workspace) {
  const Sizes sizes{h0.size(1), x.size(2), x.size(1), x.size(0)};
  const auto& [H, I, B, steps] = sizes;
  Tensor hs = at::empty({steps + 1, B, H}, x.options()), cs = at::empty({steps + 1, B, H}, x.options());
  Tensor gates = at::empty({steps, B, 4 * H}, x.options()), tanh_c = at::empty({steps, B, H}, x.options());
  hs.select(0, 0).copy_(h0);
  cs.select(0, 0).copy_(c0);
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "lstm_forward", [&] {
    using T = scalar_t;
    const typename Forward<T>::Arrays arrays{
        x.data_ptr<T>(), w_ih.data_ptr<T>(), w_hh.data_ptr<T>(), bias ? bias->data_ptr<T>() : nullptr,
        hs.data_ptr<T>(), cs.data_ptr<T>(), gates.data_ptr<T>(), tanh_c.data_ptr<T>()};
    Forward<T>(
        sizes, arrays, Kept::of(x_mask, sizes.T, sizes.I, T()), Kept::of(h_mask, sizes.T, sizes.H, T()),
        buffers_in<ForwardBuffers<T>>(workspace, sizes, static_cast<int64_t>(at::get_num_threads())))
        .run(static_cast<T>(h_scale));
  });
  return {hs, cs, gates, tanh_c};
}

// The tape of `lstm_forward`, dy (T, B, H), dh, dc (B, H); `mode` as `gradsieve.golden.types.SieveMode`, tau in units
// of the gradients, draws (T, batch_tiles, 4H) uniform numbers for the stochastic sieve.  Returns dx (T, B, I; empty if
// it is not needed), dh0, dc0, dw_ih, dw_hh, db, the rows kept (T, batch_tiles, 4H), and four numbers: elements of dz'
// that are not zero, how many rows were kept, whether all of db is finite, and seconds in GEMMs.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> lstm_backward(
    const Tensor& x, const Tensor& hs, const Tensor& cs, const Tensor& gates, const Tensor& tanh_c, const Tensor& dy,
    const Tensor& dh, const Tensor& dc, const Tensor& w_ih, const Tensor& w_hh, const Mask& x_mask,
    const Mask& h_mask, double h_scale, int64_t mode, double tau, int64_t lanes, const Mask& draws, bool need_dx,
    Tensor workspace) {
  const Sizes sizes{tanh_c.size(2), x.size(2), x.size(1), x.size(0)};
  const int64_t tiles = (sizes.B + lanes - 1) / lanes, gate_rows = 4 * sizes.H;
  Tensor dx = need_dx ? at::empty(x.sizes(), x.options()) : at::empty({0}, x.options());
  Tensor dh0 = dh.clone(at::MemoryFormat::Contiguous), dc0 = dc.clone(at::MemoryFormat::Contiguous);
  Tensor dw_ih = at::empty(w_ih.sizes(), x.options()), dw_hh = at::empty(w_hh.sizes(), x.options());
  Tensor db = at::zeros({gate_rows}, x.options());
  Tensor rows = at::ones({sizes.T, tiles, gate_rows}, x.options().dtype(at::kBool));
  Tensor counts = at::empty({4}, x.options().dtype(at::kDouble));
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "lstm_backward", [&] {
    using T = scalar_t;
    const typename Backward<T>::Arrays arrays{
        x.data_ptr<T>(), hs.data_ptr<T>(), cs.data_ptr<T>(), gates.data_ptr<T>(), tanh_c.data_ptr<T>(),
        dy.data_ptr<T>(), w_ih.data_ptr<T>(), w_hh.data_ptr<T>(), draws ? draws->data_ptr<T>() : nullptr,
        need_dx ? dx.data_ptr<T>() : nullptr, dh0.data_ptr<T>(), dc0.data_ptr<T>(), dw_ih.data_ptr<T>(),
        dw_hh.data_ptr<T>(), db.data_ptr<T>(), rows.data_ptr<bool>()};
    Backward<T> pass(
        sizes, lanes, static_cast<Mode>(mode), static_cast<T>(tau), arrays, Kept::of(x_mask, sizes.T, sizes.I, T()),
        Kept::of(h_mask, sizes.T, sizes.H, T()),
        buffers_in<BackwardBuffers<T>>(workspace, sizes, tiles));
    pass.run(static_cast<T>(h_scale));
    double* count = counts.data_ptr<double>();
    count[0] = static_cast<double>(pass.elements);
    count[1] = static_cast<double>(std::count(arrays.rows, arrays.rows + rows.numel(), true));
    count[2] = std::all_of(arrays.db, arrays.db + gate_rows, [](T value) { return std::isfinite(value); });
    count[3] = pass.gemm_seconds;
  });
  return {dx, dh0, dc0, dw_ih, dw_hh, db, rows, counts};
}

}  // namespace

TORCH_LIBRARY(gradsieve, library) {
  library.def(
      "lstm_forward(Tensor x, Tensor h0, Tensor c0, Tensor w_ih, Tensor w_hh, Tensor? bias, Tensor? x_mask, "
      "Tensor? h_mask, float h_scale, Tensor(a!) workspace) -> (Tensor, Tensor, Tensor, Tensor)");
  library.def(
      "lstm_backward(Tensor x, Tensor hs, Tensor cs, Tensor gates, Tensor tanh_c, Tensor dy, Tensor dh, Tensor dc, "
      "Tensor w_ih, Tensor w_hh, Tensor? x_mask, Tensor? h_mask, float h_scale, int mode, float tau, int lanes, "
      "Tensor? draws, bool need_dx, Tensor(b!) workspace) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(gradsieve, CPU, library) {
  library.impl("lstm_forward", lstm_forward);
  library.impl("lstm_backward", lstm_backward);
}

}  // namespace gradsieve
