// Activations and their gradients, element by element.
//
// Floor: 2 arrays of n numbers moved forward, 3 backward. In float that is 8 and 12 bytes an element, read and written
// 16 bytes at a time.
#include "activations.cuh"
