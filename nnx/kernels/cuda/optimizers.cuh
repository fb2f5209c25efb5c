// One step of an optimizer for one parameter, and what regularization adds to its gradient (chapters 10 and 14; Kingma
// and Ba, 2015; Loshchilov and Hutter, 2019).
#include "common.cuh"

// ---- what a step needs of `hyper` and `counters` --------------------------------------------------------------------

// Worked out in double, by few threads: every thread's own division of doubles would cost more than its parameters do.
struct Rates {
  REAL rate, epsilon;
  REAL keep_1, add_1, keep_2, add_2;  // beta and 1 - beta of the two moments
  REAL grow_1, grow_2;                // 1 / (1 - beta**t) of the two: Adam's bias correction
  REAL shrink;                        // 1 - rate * weight decay
  REAL fresh;                         // what Nadam takes of the gradient itself
};

__device__ __forceinline__ double rate_of(const double* hyper, i64 step) {
  return hyper[LEARNING_RATE] / (1 + hyper[DECAY] * (double)step);
}

// By squaring: the power of a step number, in a few registers.
__device__ __forceinline__ double power(double base, i64 exponent) {
  double result = 1;
  for (; exponent > 0; exponent >>= 1, base *= base)
    if (exponent & 1) result *= base;
  return result;
}

__device__ __forceinline__ void set_rates(Rates& rates, const double* hyper, i64 step) {
  rates.rate = (REAL)rate_of(hyper, step);
  rates.epsilon = (REAL)hyper[EPSILON];
  rates.keep_1 = (REAL)hyper[BETA_1];
  rates.add_1 = (REAL)(1 - hyper[BETA_1]);
  rates.keep_2 = (REAL)hyper[BETA_2];
}

__device__ __forceinline__ void set_adam_rates(Rates& rates, const double* hyper, i64 step) {
  i64 time = step + 1;
  rates.add_2 = (REAL)(1 - hyper[BETA_2]);
  rates.grow_1 = (REAL)(1 / (1 - power(hyper[BETA_1], time)));
  rates.grow_2 = (REAL)(1 / (1 - power(hyper[BETA_2], time)));
  rates.shrink = (REAL)(1 - rate_of(hyper, step) * hyper[WEIGHT_DECAY]);
}

// As set_adam_rates, with Nesterov's momentum in `grow_1` and `fresh`: nnx/kernels/nesterov.py says how.
__device__ __forceinline__ void set_nadam_rates(Rates& rates, const double* hyper, i64 step) {
  set_adam_rates(rates, hyper, step);
  double time = (double)(step + 1), beta = hyper[BETA_1];
  double rate = log(0.96) * hyper[MOMENTUM_DECAY] - 1e-300;
  double one = expm1(rate), all = expm1(rate * time), single = one, whole = all, half = 0.5, total = 0;
  for (int n = 1; n < 64; n++) {
    total += half / n * (1 + single) * whole / single;
    single += one + single * one;
    whole += all + whole * all;
    half *= 0.5;
  }
  double now = beta * (1 - 0.5 * exp(rate * time)), ahead = beta * (1 - 0.5 * exp(rate * (time + 1)));
  double product = power(beta, step + 1) * exp(-total);
  rates.grow_1 = (REAL)(ahead / (1 - product * ahead));
  rates.fresh = (REAL)((1 - now) / (1 - product));
}

// ---- one parameter --------------------------------------------------------------------------------------------------

// m = momentum * m - rate * g; p += m, or p += momentum * m - rate * g by Nesterov. The momentum stands in
// hyper[BETA_1]; hyper[BETA_2] is 1 for Nesterov's, else 0.
__device__ __forceinline__ void sgd_step(const Rates& by, REAL& p, REAL g, REAL& m) {
  m = by.keep_1 * m - by.rate * g;
  p += by.keep_2 != 0 ? by.keep_1 * m - by.rate * g : m;
}

// v += g**2; p -= rate * g / (sqrt(v) + epsilon).
__device__ __forceinline__ void adagrad_step(const Rates& by, REAL& p, REAL g, REAL& v) {
  v += g * g;
  p -= by.rate * g / (square_root(v) + by.epsilon);
}

// v = rho * v + (1 - rho) * g**2; p -= rate * g / (sqrt(v) + epsilon). rho stands in hyper[BETA_1].
__device__ __forceinline__ void rmsprop_step(const Rates& by, REAL& p, REAL g, REAL& v) {
  v = by.keep_1 * v + by.add_1 * g * g;
  p -= by.rate * g / (square_root(v) + by.epsilon);
}

// Both moments, corrected for their start at 0; the weight decay is the parameter's own, not the gradient's (AdamW).
__device__ __forceinline__ void adam_step(const Rates& by, REAL& p, REAL g, REAL& m, REAL& v) {
  m = by.keep_1 * m + by.add_1 * g;
  v = by.keep_2 * v + by.add_2 * g * g;
  REAL descent = by.rate * (m * by.grow_1) / (square_root(v * by.grow_2) + by.epsilon);
  p = p * by.shrink - descent;
}

// Adam with some of the gradient itself beside its mean (Dozat, 2016).
__device__ __forceinline__ void nadam_step(const Rates& by, REAL& p, REAL g, REAL& m, REAL& v) {
  m = by.keep_1 * m + by.add_1 * g;
  v = by.keep_2 * v + by.add_2 * g * g;
  REAL descent = by.rate * (m * by.grow_1 + g * by.fresh) / (square_root(v * by.grow_2) + by.epsilon);
  p = p * by.shrink - descent;
}

// Adam with the largest v so far, u, which is nan where v is (Reddi et al., 2018).
__device__ __forceinline__ void amsgrad_step(const Rates& by, REAL& p, REAL g, REAL& m, REAL& v, REAL& u) {
  m = by.keep_1 * m + by.add_1 * g;
  v = by.keep_2 * v + by.add_2 * g * g;
  u = v <= u ? u : v;
  REAL descent = by.rate * (m * by.grow_1) / (square_root(u * by.grow_2) + by.epsilon);
  p = p * by.shrink - descent;
}

// The sign of the mean gradient, of nan nan (Chen et al., 2023).
__device__ __forceinline__ void lion_step(const Rates& by, REAL& p, REAL g, REAL& m) {
  REAL way = by.keep_1 * m + by.add_1 * g;
  p = p * by.shrink - (way > 0 ? by.rate : way < 0 ? -by.rate : way);
  m = by.keep_2 * m + by.add_2 * g;
}

// ---- before and after an optimizer ----------------------------------------------------------------------------------

// g *= scale_of(|g|**2, norm): below 1 where g is longer than `norm`; nan where its length is not finite.
__device__ __forceinline__ double scale_of(double squares, double norm) {
  double length = sqrt(squares);
  return length <= norm ? 1 : norm / length + (length - length);
}

// (p - a) * share_of(decay, time) is what the mean a of parameters p moves by in its step `time`, counted from 1.
__device__ __forceinline__ double share_of(double decay, i64 time) {
  return decay == 1 ? 1 / (double)time : (1 - decay) / (1 - power(decay, time));
}

// The gradient g of a weight w with that of l1 |w| + l2 w**2. The gradient of |w| at 0 is taken as +1.
__device__ __forceinline__ REAL regularized(REAL g, REAL w, REAL l1, REAL twice_l2) {
  return g + (w >= 0 ? l1 : -l1) + twice_l2 * w;
}
