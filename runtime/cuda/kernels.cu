// The kernels: each runs the body of the same name, one block of threads a call.
//
// All take one structure by value, 256 threads a block, the grid that the body states, and as much
// dynamic shared memory as `*_shared` says. They allocate nothing and read no global state, so they
// may be captured in CUDA graphs; the caller checks sizes (runtime/cuda/kernels.py).
#include "blend.h"
#include "consistency.h"
#include "crop.h"
#include "enlarge.h"
#include "landmarks.h"
#include "resample.h"

// A __grid_constant__ stays in constant memory though the body takes it by reference.
#define DIC_KERNEL(name, Arguments)                                                            \
  extern "C" __global__ void __launch_bounds__(dic::THREADS)                                   \
      dic_##name(const __grid_constant__ dic::Arguments a) {                                   \
    extern __shared__ __align__(16) unsigned char shared[];                                    \
    dic::name(dic::DeviceBlock{static_cast<int>(blockIdx.x), static_cast<int>(blockIdx.y),     \
                               shared},                                                        \
              a);                                                                              \
  }

#include "kernels.def"
