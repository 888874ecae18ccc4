// Blending restored faces into the enlarged picture (runtime/faces/blend.py, `paste`).
#pragma once

#include "interpolation.h"

namespace dic {

// Largest value of a face and of its mask: cubic interpolation may not exceed them.
struct Peaks {
  float level, weight;
};

struct PeaksArguments {
  const unsigned char* faces;  // (faces, side, side, 3)
  const float* masks;          // (faces, side, side)
  Peaks* peaks;                // (faces,)
  int32_t side;
  int32_t unused;
};

DIC_BOTH int peaks_shared() { return THREADS * static_cast<int>(sizeof(Peaks)); }

// Grid: (1, faces).
template <class Block>
DIC_BOTH void peaks(const Block& block, const PeaksArguments& a) {
  const int pixels = a.side * a.side;
  const unsigned char* face = a.faces + static_cast<int64_t>(block.y) * pixels * 3;
  const float* mask = a.masks + static_cast<int64_t>(block.y) * pixels;
  Peaks* found = reinterpret_cast<Peaks*>(block.shared);
  block.each(THREADS, [&](int i) {
    int level = 0;
    float weight = 0;
    for (int at = i; at < pixels * 3; at += THREADS) level = greatest(level, face[at]);
    for (int at = i; at < pixels; at += THREADS) weight = mask[at] > weight ? mask[at] : weight;
    found[i] = {static_cast<float>(level), weight};
  });
  block.each(1, [&](int) {
    Peaks all = {0, 0};
    for (int i = 0; i < THREADS; ++i) {
      all.level = found[i].level > all.level ? found[i].level : all.level;
      all.weight = found[i].weight > all.weight ? found[i].weight : all.weight;
    }
    a.peaks[block.y] = all;
  });
}

// Where one face goes, as `kernels.paste_records` makes it.
struct PasteRecord {
  double inverse[6];  // turned: from pixels of the region to those of the face resized to `size`
  int32_t x, y;       // upper left corner in the enlarged picture, if not turned
  int32_t size;
  int32_t turned;                    // 0 or 1
  int32_t left, top, right, bottom;  // region of the picture that it may change
};

struct PasteArguments {
  Frame picture;               // enlarged, 1 or 3 channels; changed in place
  const unsigned char* faces;  // (faces, side, side, 3)
  const float* masks;          // (faces, side, side)
  const Peaks* peaks;          // (faces,)
  const PasteRecord* jobs;     // in the order of blending: a later face covers an earlier
  int32_t count;
  int32_t side;
};

struct Blended {
  float rgb[3];
  float weight;
};

// Weighted sum of a face and its mask: across each row, then down, as OpenCV does.
template <class Axis>
DIC_BOTH Blended gathered(const unsigned char* face, const float* mask, int side,
                          const Axis& across, const Axis& down) {
  Blended sum = {{0, 0, 0}, 0};
  DIC_UNROLL
  for (int j = 0; j < down.count; ++j) {
    const int row = clamp(down.first + j, 0, side - 1) * side;
    Blended line = {{0, 0, 0}, 0};
    DIC_UNROLL
    for (int k = 0; k < across.count; ++k) {
      const int at = row + clamp(across.first + k, 0, side - 1);
      const float weight = across.weight(k);
      for (int c = 0; c < 3; ++c) line.rgb[c] += static_cast<float>(face[at * 3 + c]) * weight;
      line.weight += mask[at] * weight;
    }
    for (int c = 0; c < 3; ++c) sum.rgb[c] += line.rgb[c] * down.weight(j);
    sum.weight += line.weight * down.weight(j);
  }
  return sum;
}

// Pixel (x, y) of a face and its mask resized to `size`: INTER_AREA if smaller, else INTER_CUBIC.
DIC_BOTH Blended resized(const unsigned char* face, const float* mask, const Peaks& peaks, int side,
                         int size, int x, int y) {
  Blended pixel = size < side
                      ? gathered(face, mask, side, Area(x, side, size), Area(y, side, size))
                      : gathered(face, mask, side, cubic_taps(x, side, size),
                                 cubic_taps(y, side, size));
  for (float& level : pixel.rgb) level = clamp(level, 0.f, peaks.level);
  pixel.weight = clamp(pixel.weight, 0.f, peaks.weight);
  return pixel;
}

// The face at pixel (x, y) of the picture; 0 outside a turned crop.
DIC_BOTH Blended placed(const PasteArguments& a, int number, int x, int y) {
  const PasteRecord& job = a.jobs[number];
  const int64_t pixels = static_cast<int64_t>(a.side) * a.side;
  const unsigned char* face = a.faces + number * pixels * 3;
  const float* mask = a.masks + number * pixels;
  const Peaks& peaks = a.peaks[number];
  if (!job.turned) return resized(face, mask, peaks, a.side, job.size, x - job.x, y - job.y);
  const Fixed at = warped(job.inverse, x - job.left, y - job.top);
  constexpr float STEP = 1.f / (1 << FINE_BITS);
  const float right = static_cast<float>(at.fine_x) * STEP;
  const float below = static_cast<float>(at.fine_y) * STEP;
  Blended sum = {{0, 0, 0}, 0};
  DIC_ROLLED
  for (int i = 0; i < 4; ++i) {
    const int column = at.x + i % 2, row = at.y + i / 2;
    if (column < 0 || row < 0 || column >= job.size || row >= job.size) continue;
    const float share = (i % 2 ? right : 1.f - right) * (i / 2 ? below : 1.f - below);
    if (share == 0.f) continue;
    const Blended pixel = resized(face, mask, peaks, a.side, job.size, column, row);
    for (int c = 0; c < 3; ++c) sum.rgb[c] += pixel.rgb[c] * share;
    sum.weight += pixel.weight * share;
  }
  return sum;
}

DIC_BOTH bool contains(const PasteRecord& job, int x, int y) {
  return x >= job.left && x < job.right && y >= job.top && y < job.bottom;
}

// Blend one face into one pixel of the picture.
DIC_BOTH void blend_pixel(const PasteArguments& a, int number, int x, int y) {
  const Frame& picture = a.picture;
  const float peak = picture.depth == 1 ? 255.f : 65535.f;
  Blended face = placed(a, number, x, y);
  if (!(face.weight > 0.f)) return;
  if (picture.channels == 1) {
    face.rgb[0] = 0.299f * face.rgb[0] + 0.587f * face.rgb[1] + 0.114f * face.rgb[2];
  }
  unsigned char* row = picture.pixels + y * picture.stride;
  for (int c = 0; c < picture.channels; ++c) {
    const float under = static_cast<float>(value_at(picture, x, y, c));
    const float over = face.rgb[c] * (peak / 255.f);
    const float level = clamp(rintf(under + face.weight * (over - under)), 0.f, peak);
    const int64_t at = static_cast<int64_t>(x) * picture.channels + c;
    if (picture.depth == 1) {
      row[at] = static_cast<uint8_t>(level);
    } else {
      reinterpret_cast<uint16_t*>(row)[at] = static_cast<uint16_t>(level);
    }
  }
}

// Grid: (pixels of the largest region / THREADS, faces). A pixel that several faces share belongs to
// the first of them, whose thread blends them all in order: no two threads write one pixel.
template <class Block>
DIC_BOTH void paste(const Block& block, const PasteArguments& a) {
  const PasteRecord& job = a.jobs[block.y];
  const int64_t wide = job.right - job.left, high = job.bottom - job.top;
  if (wide <= 0 || high <= 0) return;  // the crop lies outside the picture
  const int64_t start = static_cast<int64_t>(block.x) * THREADS, rest = wide * high - start;
  block.each(static_cast<int>(rest < THREADS ? rest : THREADS), [&](int i) {
    const int x = job.left + static_cast<int>((start + i) % wide);
    const int y = job.top + static_cast<int>((start + i) / wide);
    for (int k = 0; k < block.y; ++k) {
      if (contains(a.jobs[k], x, y)) return;
    }
    for (int k = block.y; k < a.count; ++k) {
      if (contains(a.jobs[k], x, y)) blend_pixel(a, k, x, y);
    }
  });
}

}  // namespace dic
