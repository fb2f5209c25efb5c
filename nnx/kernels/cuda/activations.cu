// Activations and their gradients, element by element.
//
// Floor: 2 arrays of n numbers moved forward, 3 backward. In float that is 8 and 12 bytes an element, read and written
// 16 bytes at a time.
// A gradient is written with the activation's own output y, which is kept anyway.
#include "common.cuh"

extern "C" __global__ void relu_forward(const REAL* x, REAL* y, long long n) {
  map(x, y, n, [](REAL v) { return relu(v); });
}

extern "C" __global__ void sigmoid_forward(const REAL* x, REAL* y, long long n) {
  map(x, y, n, [](REAL v) { return logistic(v); });
}

extern "C" __global__ void tanh_forward(const REAL* x, REAL* y, long long n) {
  map(x, y, n, [](REAL v) { return hyperbolic_tangent(v); });
}

// A choice, not a product: where y is 0, even an infinite dy gives 0.
extern "C" __global__ void relu_backward(const REAL* y, const REAL* dy, REAL* dx, long long n) {
  map(y, dy, dx, n, [](REAL output, REAL gradient) { return output > 0 ? gradient : (REAL)0; });
}

extern "C" __global__ void sigmoid_backward(const REAL* y, const REAL* dy, REAL* dx, long long n) {
  map(y, dy, dx, n, [](REAL output, REAL gradient) { return gradient * output * (1 - output); });
}

extern "C" __global__ void tanh_backward(const REAL* y, const REAL* dy, REAL* dx, long long n) {
  map(y, dy, dx, n, [](REAL output, REAL gradient) { return gradient * (1 - output * output); });
}
