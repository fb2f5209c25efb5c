// Activations and their gradients, element by element.
//
// Floor: 2 arrays of n numbers moved forward, 3 backward. In float that is 8 and 12 bytes an element, read and written
// 16 bytes at a time.
#include "elementwise.cuh"

extern "C" __global__ void relu_forward(const REAL* x, REAL* y, long long n) {
  map(x, y, n, [](REAL v) { return relu(v); });
}

extern "C" __global__ void sigmoid_forward(const REAL* x, REAL* y, long long n) {
  map(x, y, n, [](REAL v) { return logistic(v); });
}

extern "C" __global__ void tanh_forward(const REAL* x, REAL* y, long long n) {
  map(x, y, n, [](REAL v) { return hyperbolic_tangent(v); });
}

extern "C" __global__ void relu_backward(const REAL* y, const REAL* dy, REAL* dx, long long n) {
  map(y, dy, dx, n, [](REAL output, REAL gradient) { return relu_slope(output, gradient); });
}

extern "C" __global__ void sigmoid_backward(const REAL* y, const REAL* dy, REAL* dx, long long n) {
  map(y, dy, dx, n, [](REAL output, REAL gradient) { return sigmoid_slope(output, gradient); });
}

extern "C" __global__ void tanh_backward(const REAL* y, const REAL* dy, REAL* dx, long long n) {
  map(y, dy, dx, n, [](REAL output, REAL gradient) { return tanh_slope(output, gradient); });
}
