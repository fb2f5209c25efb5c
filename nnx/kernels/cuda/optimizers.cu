// Optimizers over one flat buffer of parameters p, gradients g and moments m, v.
//
// Floor: every buffer moved once: in float 20 bytes a parameter, Adam 28. Arithmetic is a tenth of that time, so square
// root and division are the exact ones.
// The rates and the step stand in device memory: a recorded launch reads those of its own step whenever it is replayed.
#include "optimizers.cuh"

// The first thread of a block works the rates out for all.
__device__ __forceinline__ Rates shared_rates(Rates* shared, const double* hyper, const i64* counters, bool adam,
                                                 bool nadam = false) {
  if (threadIdx.x == 0) {
    set_rates(*shared, hyper, counters[STEP]);
    if (nadam) set_nadam_rates(*shared, hyper, counters[STEP]);
    else if (adam) set_adam_rates(*shared, hyper, counters[STEP]);
  }
  __syncthreads();
  return *shared;
}

// Call update(p, g, m) for every parameter with its one moment.
template <class Update>
__device__ __forceinline__ void update_each(REAL* p, const REAL* g, REAL* m, i64 n, Update update) {
  for_each(n, aligned(p) && aligned(g) && aligned(m), [&](auto span) {
    auto parameters = span.load_from(p), gradients = span.load_from(g), moments = span.load_from(m);
#pragma unroll
    for (int k = 0; k < span.count; k++) update(parameters.at[k], gradients.at[k], moments.at[k]);
    span.store_to(m, moments);
    span.store_to(p, parameters);
  });
}

extern "C" __global__ void sgd(REAL* p, const REAL* g, REAL* m, const double* hyper, const long long* counters,
                               long long n) {
  __shared__ Rates shared;
  Rates by = shared_rates(&shared, hyper, counters, false);
  update_each(p, g, m, n, [&](REAL& value, REAL gradient, REAL& moment) { sgd_step(by, value, gradient, moment); });
}

extern "C" __global__ void adagrad(REAL* p, const REAL* g, REAL* v, const double* hyper, const long long* counters,
                                   long long n) {
  __shared__ Rates shared;
  Rates by = shared_rates(&shared, hyper, counters, false);
  update_each(p, g, v, n, [&](REAL& value, REAL gradient, REAL& square) { adagrad_step(by, value, gradient, square); });
}

extern "C" __global__ void rmsprop(REAL* p, const REAL* g, REAL* v, const double* hyper, const long long* counters,
                                   long long n) {
  __shared__ Rates shared;
  Rates by = shared_rates(&shared, hyper, counters, false);
  update_each(p, g, v, n, [&](REAL& value, REAL gradient, REAL& square) { rmsprop_step(by, value, gradient, square); });
}

extern "C" __global__ void adam(REAL* p, const REAL* g, REAL* m, REAL* v, const double* hyper,
                                const long long* counters, long long n) {
  __shared__ Rates shared;
  Rates by = shared_rates(&shared, hyper, counters, true);
  for_each(n, aligned(p) && aligned(g) && aligned(m) && aligned(v), [&](auto span) {
    auto parameters = span.load_from(p), gradients = span.load_from(g);
    auto moments = span.load_from(m), squares = span.load_from(v);
#pragma unroll
    for (int k = 0; k < span.count; k++)
      adam_step(by, parameters.at[k], gradients.at[k], moments.at[k], squares.at[k]);
    span.store_to(m, moments);
    span.store_to(v, squares);
    span.store_to(p, parameters);
  });
}

extern "C" __global__ void nadam(REAL* p, const REAL* g, REAL* m, REAL* v, const double* hyper,
                                 const long long* counters, long long n) {
  __shared__ Rates shared;
  Rates by = shared_rates(&shared, hyper, counters, true, true);
  for_each(n, aligned(p) && aligned(g) && aligned(m) && aligned(v), [&](auto span) {
    auto parameters = span.load_from(p), gradients = span.load_from(g);
    auto moments = span.load_from(m), squares = span.load_from(v);
#pragma unroll
    for (int k = 0; k < span.count; k++)
      nadam_step(by, parameters.at[k], gradients.at[k], moments.at[k], squares.at[k]);
    span.store_to(m, moments);
    span.store_to(v, squares);
    span.store_to(p, parameters);
  });
}

extern "C" __global__ void amsgrad(REAL* p, const REAL* g, REAL* m, REAL* v, REAL* u, const double* hyper,
                                   const long long* counters, long long n) {
  __shared__ Rates shared;
  Rates by = shared_rates(&shared, hyper, counters, true);
  for_each(n, aligned(p) && aligned(g) && aligned(m) && aligned(v) && aligned(u), [&](auto span) {
    auto parameters = span.load_from(p), gradients = span.load_from(g);
    auto moments = span.load_from(m), squares = span.load_from(v), largest = span.load_from(u);
#pragma unroll
    for (int k = 0; k < span.count; k++)
      amsgrad_step(by, parameters.at[k], gradients.at[k], moments.at[k], squares.at[k], largest.at[k]);
    span.store_to(m, moments);
    span.store_to(v, squares);
    span.store_to(u, largest);
    span.store_to(p, parameters);
  });
}

extern "C" __global__ void lion(REAL* p, const REAL* g, REAL* m, const double* hyper, const long long* counters,
                                long long n) {
  __shared__ Rates shared;
  Rates by = shared_rates(&shared, hyper, counters, true);
  update_each(p, g, m, n, [&](REAL& value, REAL gradient, REAL& moment) { lion_step(by, value, gradient, moment); });
}

// In an optimizer's place: m += g, and p stays.
extern "C" __global__ void accumulate(REAL* p, const REAL* g, REAL* m, const double* hyper, const long long* counters,
                                      long long n) {
  map(m, g, m, n, [](REAL sum, REAL gradient) { return sum + gradient; });
}
