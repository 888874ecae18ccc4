// The kernels' bodies on a CPU, for tests: one function a kernel, which runs the blocks of a grid
// one after the other, forwards or backwards. The shared memory of each block has exactly the size
// of the launch, and begins with noise, because a GPU's is not cleared.
#include <vector>

#include "blend.h"
#include "consistency.h"
#include "crop.h"
#include "enlarge.h"
#include "landmarks.h"
#include "resample.h"

namespace {

template <class Arguments, class Body>
void run(const void* arguments, int grid_x, int grid_y, int shared_bytes, int backwards, Body body) {
  const Arguments& a = *static_cast<const Arguments*>(arguments);
  const int64_t blocks = static_cast<int64_t>(grid_x) * grid_y;
  for (int64_t i = 0; i < blocks; ++i) {
    const int64_t at = backwards ? blocks - 1 - i : i;
    // On the heap, so that an address sanitiser sees what lies beyond it.
    std::vector<unsigned char> shared(static_cast<size_t>(shared_bytes), 0xA5);
    body(dic::HostBlock{static_cast<int>(at % grid_x), static_cast<int>(at / grid_x), shared.data(),
                        backwards != 0},
         a);
  }
}

}  // namespace

#define DIC_KERNEL(name, Arguments)                                                             \
  extern "C" void dic_##name(const void* arguments, int grid_x, int grid_y, int shared_bytes,   \
                             int backwards) {                                                   \
    run<dic::Arguments>(arguments, grid_x, grid_y, shared_bytes, backwards,                     \
                        [](const dic::HostBlock& block, const dic::Arguments& a) {              \
                          dic::name(block, a);                                                  \
                        });                                                                     \
  }                                                                                             \
  extern "C" int dic_##name##_size() { return static_cast<int>(sizeof(dic::Arguments)); }

#include "kernels.def"
#undef DIC_KERNEL

extern "C" int dic_resize_shared(int old, int size) { return dic::resize_shared(old, size); }
extern "C" int dic_project_shared() { return dic::project_shared(); }
extern "C" int dic_mask_shared() { return dic::mask_shared(); }
extern "C" int dic_peaks_shared() { return dic::peaks_shared(); }
