// Gradients of a dense layer's weights and biases in a program: sums over samples, always in the same order.
//
// Floor: as products. Where samples are many a warp has a tile of the weights, its lanes share the samples, and their
// sums are added up by shuffles; where they are few a thread has it.
#include "program.cuh"

#define SIDE 4  // of a tile of weights: as many inputs, as many outputs

struct Tile {
  const REAL *x, *dy;
  int inputs[SIDE], outputs[SIDE];  // where their first samples stand
  REAL sums[SIDE * SIDE];

  // Beyond the last input and output it is the last one again, and dropped by `put`.
  __device__ __forceinline__ Tile(const Row& row, int samples, int first_input, int first_output)
      : x(row.x), dy(row.y), sums() {
#pragma unroll
    for (int k = 0; k < SIDE; k++) {
      inputs[k] = (int)smaller(first_input + k, row.inputs - 1) * samples;
      outputs[k] = (int)smaller(first_output + k, row.outputs - 1) * samples;
    }
  }

  __device__ __forceinline__ void add(int sample) {
    REAL numbers[SIDE];
#pragma unroll
    for (int k = 0; k < SIDE; k++) numbers[k] = dy[outputs[k] + sample];
#pragma unroll
    for (int i = 0; i < SIDE; i++) {
      REAL number = x[inputs[i] + sample];
#pragma unroll
      for (int o = 0; o < SIDE; o++) sums[i * SIDE + o] += number * numbers[o];
    }
  }

  // The sum over the warp of number lane / 2 of the tile. At each of four distances a lane gives half of its numbers
  // away and adds what it gets to the others: 16 shuffles, where adding each number up would take 80.
  __device__ __forceinline__ REAL sum_of_lanes() {
    halve<SIDE * SIDE / 2>();
    return sums[0] + __shfl_xor_sync(ALL_LANES, sums[0], 1);
  }

  template <int COUNT>
  __device__ __forceinline__ void halve() {
    bool keeps_high = lane_of_warp() & 2 * COUNT;
#pragma unroll
    for (int k = 0; k < COUNT; k++) {
      REAL low = sums[k], high = sums[k + COUNT];
      sums[k] = (keeps_high ? high : low) + __shfl_xor_sync(ALL_LANES, keeps_high ? low : high, 2 * COUNT);
    }
    if constexpr (COUNT > 1) halve<COUNT / 2>();
  }
};

__device__ __forceinline__ void put(const Row& row, i64 input, i64 output, REAL sum) {
  if (input < row.inputs && output < row.outputs) row.out[input * row.outputs + output] = sum;
}

// Batches of less than a warp. Each thread begins with another sample, so that they do not all meet in one memory bank.
__device__ __forceinline__ void gradient_by_threads(const Row& row, int samples, int across, int tiles) {
  for_items(tiles, [&](int number) {
    int input = number / across * SIDE, output = number % across * SIDE;
    Tile tile(row, samples, input, output);
    int sample = number % samples;
    for (int left = samples; left > 0; left--) {
      tile.add(sample);
      sample = sample + 1 == samples ? 0 : sample + 1;
    }
#pragma unroll
    for (int i = 0; i < SIDE; i++)
#pragma unroll
      for (int o = 0; o < SIDE; o++) put(row, input + i, output + o, tile.sums[i * SIDE + o]);
  });
}

__device__ __forceinline__ void gradient_by_warps(const Row& row, int samples, int across, int tiles) {
  int lane = lane_of_warp(), place = lane / 2;
  for (int number = warp_of_block(); number < tiles; number += warps_of_block()) {
    int input = number / across * SIDE, output = number % across * SIDE;
    Tile tile(row, samples, input, output);
    for (int sample = lane; sample < samples; sample += 32) tile.add(sample);
    REAL sum = tile.sum_of_lanes();
    if (lane % 2 == 0) put(row, input + place / SIDE, output + place % SIDE, sum);
  }
}

// out [inputs, outputs] and also [outputs]: the gradients of weights and biases, from the layer's inputs x and its
// output's gradient y.
__device__ __forceinline__ void dense_gradient(Row row, int samples) {
  int across = ((int)row.outputs + SIDE - 1) / SIDE, tiles = ((int)row.inputs + SIDE - 1) / SIDE * across;
  if (samples < 32)
    gradient_by_threads(row, samples, across, tiles);
  else
    gradient_by_warps(row, samples, across, tiles);
  // from the last warp on: the first ones have most to do above
  for (int output = warps_of_block() - 1 - warp_of_block(); output < row.outputs; output += warps_of_block()) {
    REAL sum = 0;
    for (int sample = lane_of_warp(); sample < samples; sample += 32) sum += row.y[output * samples + sample];
    sum = reduce_lanes(sum, 32, Sum());
    if (lane_of_warp() == 0) row.also[output] = sum;
  }
}
