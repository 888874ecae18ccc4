// What all kernels share: how a kernel's body runs on a GPU and on a CPU, frames, and rounding.
//
// A body is a template over a block of threads. It is divided into phases, `block.each(count, f)`:
// f(0) … f(count - 1) may run in any order and at once, and all have finished when `each` returns.
// On a GPU the threads of a block share the calls and wait at a barrier; on a CPU they run one
// after the other, forwards or backwards, so that a result that depends on their order shows.
//
// Compiled without fused multiply-add on both, so that both round alike.
#pragma once

#include <cmath>
#include <cstdint>

#ifdef __CUDACC__
#define DIC_BOTH __host__ __device__ __forceinline__
#define DIC_UNROLL _Pragma("unroll")
#define DIC_ROLLED _Pragma("unroll 1")
#else
#define DIC_BOTH inline
#define DIC_UNROLL
#define DIC_ROLLED
#endif

namespace dic {

constexpr int THREADS = 256;  // of a block, in every kernel

// The block of threads that runs a kernel's body. x and y: of the block in the grid. shared: memory
// of the block, aligned to 16 bytes, uninitialised.
struct HostBlock {
  int x, y;
  unsigned char* shared;
  bool backwards;

  template <class F>
  DIC_BOTH void each(int count, F f) const {
    for (int i = 0; i < count; ++i) f(backwards ? count - 1 - i : i);
  }
};

struct DeviceBlock {
  int x, y;
  unsigned char* shared;

  template <class F>
  DIC_BOTH void each([[maybe_unused]] int count, [[maybe_unused]] F f) const {
#ifdef __CUDA_ARCH__
    for (int i = static_cast<int>(threadIdx.x); i < count; i += THREADS) f(i);
    __syncthreads();
#endif
  }
};

// A picture or frame, rows top to bottom, channels interleaved: 1 is grey, 3 RGB, 4 RGB and one more
// that is ignored.
struct Frame {
  unsigned char* pixels;
  int64_t stride;  // bytes from row to row
  int32_t width, height;
  int32_t channels;
  int32_t depth;  // bytes of a value, 1 or 2
};

DIC_BOTH int clamp(int value, int low, int high) {
  return value < low ? low : value > high ? high : value;
}

DIC_BOTH float clamp(float value, float low, float high) {
  return value < low ? low : value > high ? high : value;
}

DIC_BOTH int least(int a, int b) { return a < b ? a : b; }
DIC_BOTH int greatest(int a, int b) { return a > b ? a : b; }

DIC_BOTH uint8_t to_byte(int value) { return static_cast<uint8_t>(clamp(value, 0, 255)); }

// Halves to even, as NumPy and OpenCV round.
DIC_BOTH int nearest(float value) { return static_cast<int>(rintf(value)); }
DIC_BOTH int nearest(double value) { return static_cast<int>(rint(value)); }

// A value of the frame at the depth it has.
DIC_BOTH int value_at(const Frame& frame, int x, int y, int channel) {
  const unsigned char* row = frame.pixels + y * frame.stride;
  const int64_t at = static_cast<int64_t>(x) * frame.channels + channel;
  return frame.depth == 1 ? row[at] : reinterpret_cast<const uint16_t*>(row)[at];
}

// A value of the frame as 8-bit RGB (runtime/pictures/files.py, `Picture.rgb`).
DIC_BOTH int level_at(const Frame& frame, int x, int y, int channel) {
  const int value = value_at(frame, x, y, frame.channels == 1 ? 0 : channel);
  return frame.depth == 1 ? value : (value + 128) / 257;
}

// Smoothstep: 1 for distances up to `inner`, 0 from `outer` (runtime/faces/blend.py, `_fade`).
struct Fade {
  float inner, outer;
};

DIC_BOTH float faded(float distance, Fade fade) {
  const float t = clamp((fade.outer - distance) / (fade.outer - fade.inner), 0.f, 1.f);
  return t * t * (3.f - 2.f * t);
}

}  // namespace dic
