// Normalization of a row, and its gradient.
//
// A row is anything with [j], and a team shares it (common.cuh). The mean is taken off in two parts, the second of which
// is what rounding left of it: so numbers far from 0 keep all their digits.
#include "common.cuh"

// Call keep(j, normalized); return 1 over the standard deviation.
template <class Team, class X, class Gamma, class Y, class Keep>
__device__ __forceinline__ REAL layer_norm_row(Team team, X x, Gamma gamma, Gamma beta, Y y, REAL epsilon, i64 columns,
                                               Keep keep) {
  REAL total = 0, rest = 0, squares = 0;
  for (i64 j = team.lane; j < columns; j += team.size) total += x[j];
  REAL mean = team.reduce(total, Sum()) / columns;
  for (i64 j = team.lane; j < columns; j += team.size) rest += x[j] - mean;
  rest = team.reduce(rest, Sum()) / columns;
  for (i64 j = team.lane; j < columns; j += team.size) {
    REAL centred = (x[j] - mean) - rest;
    squares += centred * centred;
  }
  REAL scale = 1 / square_root(team.reduce(squares, Sum()) / columns + epsilon);
  for (i64 j = team.lane; j < columns; j += team.size) {
    REAL normalized = ((x[j] - mean) - rest) * scale;
    keep(j, normalized);
    y[j] = normalized * gamma[j] + beta[j];
  }
  return scale;
}

// dx may be dy.
template <class Team, class X, class Gamma, class Y>
__device__ __forceinline__ void layer_norm_backward_row(Team team, X normalized, REAL scale, Gamma gamma, X dy, Y dx,
                                                        i64 columns) {
  REAL whole = 0, along = 0;
  for (i64 j = team.lane; j < columns; j += team.size) {
    REAL slope = dy[j] * gamma[j];
    whole += slope;
    along += slope * normalized[j];
  }
  whole = team.reduce(whole, Sum()) / columns;
  along = team.reduce(along, Sum()) / columns;
  for (i64 j = team.lane; j < columns; j += team.size)
    dx[j] = (dy[j] * gamma[j] - whole - normalized[j] * along) * scale;
}

// ---- moments of a feature -------------------------------------------------------------------------------------------

// What there is to know of a feature over all samples: its mean, in two parts, and 1 over its standard deviation.
struct Moments {
  double mean, rest;
  REAL scale;
  __device__ __forceinline__ REAL normalized(REAL x) const { return (REAL)(((double)x - mean) - rest) * scale; }
};

struct Running {
  REAL *mean, *variance;  // of the feature
  double momentum;
};

// From about a feature's mean, and the sums over so many rows of what is left of it, and of its squares; the running ones
// move towards them.
__device__ __forceinline__ Moments moments_of(double mean, double left, double squares, i64 rows, double epsilon,
                                              Running running) {
  double keep = running.momentum, move = 1 - keep, rest = left / rows;
  squares -= left * rest;
  if (squares < 0) squares = 0;
  *running.mean = (REAL)(keep * *running.mean + move * (mean + rest));
  *running.variance = (REAL)(keep * *running.variance + move * (squares / (rows > 1 ? rows - 1 : 1)));
  return {mean, rest, (REAL)(1 / square_root(squares / rows + epsilon))};
}

__device__ __forceinline__ Moments fixed_moments(REAL mean, REAL variance, double epsilon) {
  return {(double)mean, 0, (REAL)(1 / square_root((double)variance + epsilon))};
}

// dy of one number, given the sums over samples of dy and of dy times what is normalized; share: 1 / rows.
__device__ __forceinline__ REAL batch_norm_backward_of(REAL dy, REAL normalized, REAL dbeta, REAL dgamma, REAL share,
                                                       REAL factor) {
  return factor * (dy - dbeta * share - normalized * (dgamma * share));
}
