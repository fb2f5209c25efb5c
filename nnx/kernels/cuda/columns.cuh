// Codes of categories, which are numbers among others in a row.
#include "common.cuh"

// The code as an index; -1 for what is none: a whole number below 0 or beyond the last, a fraction, NaN.
__device__ __forceinline__ i64 code_of(REAL value, i64 codes) {
  if (!(value >= 0 && value < (REAL)codes)) return -1;
  i64 code = (i64)value;
  return (REAL)code == value ? code : -1;
}
