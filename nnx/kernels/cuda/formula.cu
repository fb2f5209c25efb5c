// A formula of the user's own, `own_of` of two numbers and a constant: over arrays, and its mean over each row.
//
// Floor: 3 arrays of n numbers moved, or 2 read for a mean.
#include "elementwise.cuh"
#include "means.cuh"
#include "own.cuh"

// out[i] = own_of(x[i], y[i], a). out may be x or y.
extern "C" __global__ void formula_each(const REAL* x, const REAL* y, REAL* out, long long n, REAL a) {
  map(x, y, out, n, [=](REAL x, REAL y) { return own_of(x, y, a); });
}

extern "C" __global__ void formula_mean(const REAL* x, const REAL* y, REAL* means, long long rows, long long columns,
                                        REAL a) {
  mean_of_rows(x, y, means, rows, columns, [=](REAL x, REAL y) { return own_of(x, y, a); });
}
