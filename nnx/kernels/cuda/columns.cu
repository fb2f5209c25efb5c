// Blocks of layers: sums of two, columns of one in another, and vectors looked up by codes.
//
// Floor: the bytes read and written, once; of the gradient of vectors each code's samples, which every thread looks for.
#include "columns.cuh"

// out may be x or y.
extern "C" __global__ void add(const REAL* x, const REAL* y, REAL* out, long long n) {
  map(x, y, out, n, [](REAL a, REAL b) { return a + b; });
}

extern "C" __global__ void copy_columns(const REAL* x, REAL* y, long long rows, long long columns, long long width,
                                        long long first, long long out_width, long long out_first) {
  for (i64 i = grid_thread(); i < rows * columns; i += grid_threads()) {
    i64 row = i / columns, column = i - row * columns;
    y[row * out_width + out_first + column] = x[row * width + first + column];
  }
}

extern "C" __global__ void embed(const REAL* x, const REAL* w, REAL* y, long long rows, long long columns,
                                 long long codes, long long width, long long column, long long out_width,
                                 long long out_first) {
  for (i64 i = grid_thread(); i < rows * columns; i += grid_threads()) {
    i64 row = i / columns, j = i - row * columns, code = code_of(x[row * width + column], codes);
    y[row * out_width + out_first + j] = code < 0 ? not_a_number() : w[code * columns + j];
  }
}

// A thread adds up one number of the gradient, in double and in the samples' order: the same however threads run.
extern "C" __global__ void embed_gradients(const REAL* x, const REAL* dy, REAL* dw, long long rows, long long columns,
                                           long long codes, long long width, long long column, long long out_width,
                                           long long out_first) {
  for (i64 i = grid_thread(); i < codes * columns; i += grid_threads()) {
    i64 code = i / columns, j = i - code * columns;
    double total = 0;
    for (i64 row = 0; row < rows; row++)
      if (code_of(x[row * width + column], codes) == code) total += (double)dy[row * out_width + out_first + j];
    dw[i] = (REAL)total;
  }
}
