// What is done to each number by itself: gradients of activations, and what an output costs that should be another.
#include "common.cuh"

enum Activation { NO_ACTIVATION, RELU, SIGMOID, TANH };  // table.py says the same

__device__ __forceinline__ REAL activate(REAL x, int activation) {
  if (activation == RELU) return relu(x);
  if (activation == SIGMOID) return logistic(x);
  if (activation == TANH) return hyperbolic_tangent(x);
  return x;
}

// ---- gradients of activations, with the activation's own output y, which is kept anyway -----------------------------

// A choice, not a product: where y is 0, even an infinite dy gives 0.
__device__ __forceinline__ REAL relu_slope(REAL y, REAL dy) { return y > 0 ? dy : (REAL)0; }
__device__ __forceinline__ REAL sigmoid_slope(REAL y, REAL dy) { return dy * y * (1 - y); }
__device__ __forceinline__ REAL tanh_slope(REAL y, REAL dy) { return dy * (1 - y * y); }

// ---- costs of an output, and their gradients but for 1 / count ------------------------------------------------------

__device__ __forceinline__ REAL square_cost(REAL output, REAL wanted) { return (output - wanted) * (output - wanted); }
__device__ __forceinline__ REAL distance_cost(REAL output, REAL wanted) { return magnitude(output - wanted); }

// `scale` with the sign of the error. The sign of 0 is 0, and that of NaN is NaN.
__device__ __forceinline__ REAL distance_slope(REAL output, REAL wanted, REAL scale) {
  REAL error = output - wanted;
  return error > 0 ? scale : error < 0 ? -scale : error * 0;
}

// A share t of yes, where the output is the probability p of it.
__device__ __forceinline__ REAL binary_cost(REAL p, REAL t) {
  p = clipped(p);
  return -(t * logarithm(p) + (1 - t) * logarithm(1 - p));
}

__device__ __forceinline__ REAL binary_slope(REAL p, REAL t) {
  p = clipped(p);
  return (1 - t) / (1 - p) - t / p;
}

// -log(p) and -log(1 - p) of one logit, kept within bounds, weighted by target t and 1 - t. The right answer at an
// infinite logit costs nothing, though 0 * inf is NaN.
__device__ __forceinline__ REAL sigmoid_cost(REAL x, REAL t, REAL low, REAL high) {
  REAL more = logarithm_of_1_plus(exponential(-magnitude(x)));
  REAL yes = clamp(x < 0 ? more - x : more, low, high);
  REAL no = clamp(x < 0 ? more : more + x, low, high);
  return (t == 0 ? (REAL)0 : t * yes) + (t == 1 ? (REAL)0 : (1 - t) * no);
}

// One class of a distribution: its part of the cross-entropy.
__device__ __forceinline__ REAL surprise(REAL p, REAL wanted) { return wanted * logarithm(clipped(p)); }
__device__ __forceinline__ REAL surprise_slope(REAL p, REAL wanted) { return -wanted / clipped(p); }
