// The kernels' bodies without Python, for ctest: what must hold whatever OpenCV does, over sizes,
// depths and turns, forwards and backwards. The comparison with the CPU's path is test_kernels.py.
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "blend.h"
#include "consistency.h"
#include "crop.h"
#include "enlarge.h"
#include "landmarks.h"
#include "resample.h"

#define DIC_KERNEL(name, Arguments)                                                              \
  extern "C" void dic_##name(const void* arguments, int grid_x, int grid_y, int shared_bytes,    \
                             int backwards);
#include "kernels.def"

namespace {

constexpr int SIDE = 128;

using Bytes = std::vector<unsigned char>;

void check(bool held, const char* what, int a, int b) {
  if (held) return;
  std::fprintf(stderr, "failed: %s (%d, %d)\n", what, a, b);
  std::exit(1);
}

int blocks(int count, int size) { return (count + size - 1) / size; }

dic::Frame framed(Bytes& memory, int width, int height, int channels, int depth) {
  return {memory.data(), static_cast<int64_t>(width) * channels * depth, width, height, channels,
          depth};
}

// A frame of one level gives pieces, small pictures and enlargements of that level.
void one_level_stays(int width, int height, int channels, int depth, int size, double turn) {
  for (int backwards = 0; backwards < 2; ++backwards) {
    // 0xC8C8 at 16 bits is 0xC8 at 8.
    Bytes memory(static_cast<size_t>(width) * height * channels * depth, 0xC8);
    const dic::Frame frame = framed(memory, width, height, channels, depth);
    const double c = std::cos(turn), s = std::sin(turn);
    dic::CropRecord crop = {{c, -s, 3.25, s, c, -2.5}, 0, -3, 2, size, turn != 0, 0, 0, width,
                            height};
    Bytes piece(static_cast<size_t>(size) * size * 3, 1);
    const dic::CutArguments cut = {frame, &crop, piece.data()};
    dic_cut(&cut, blocks(size * size, dic::THREADS), 1, 0, backwards);
    for (unsigned char level : piece) check(level == 0xC8, "cut keeps a level", size, level);

    for (int small : {1, 7, 16, 33}) {
      Bytes target(static_cast<size_t>(small) * small * 3, 1);
      const dic::ResizeRecord job = {0, 0, size, small};
      const dic::ResizeArguments resize = {piece.data(), target.data(), &job};
      const int tiles = blocks(small, dic::TILE);
      dic_resize(&resize, tiles * tiles, 1, dic::resize_shared(size, small), backwards);
      for (unsigned char level : target) check(level == 0xC8, "resize keeps a level", size, small);
    }

    const int scale = 3;
    Bytes large(memory.size() * scale * scale, 1);
    const dic::EnlargeArguments enlarge = {
        frame, framed(large, width * scale, height * scale, channels, depth)};
    dic_enlarge(&enlarge, blocks(width * scale, dic::THREADS) * height * scale, 1, 0, backwards);
    for (unsigned char level : large) check(level == 0xC8, "enlarge keeps a level", width, level);
  }
}

// A mask without a difference is 1 in the middle and 0 in the corners; a face that equals its crop
// is not changed by projection; blended with weight 1 it is what the picture shows.
void an_equal_face_changes_nothing(int size, int lanczos, double turn) {
  for (int backwards = 0; backwards < 2; ++backwards) {
    Bytes face(SIDE * SIDE * 3, 90), target(static_cast<size_t>(size) * size * 3, 90);
    const dic::ResizeRecord job = {0, 0, SIDE, size};
    const int tiles = blocks(SIDE, dic::TILE);
    const dic::ProjectArguments project = {face.data(), target.data(), target.data(),
                                           &job,        SIDE,          lanczos};
    dic_project(&project, tiles * tiles, 1, dic::project_shared(), backwards);
    for (unsigned char level : face) check(level == 90, "projection keeps a face", size, level);

    const int compared = dic::least(size, dic::MOST_COMPARED);
    std::vector<float> mask(SIDE * SIDE, -1.f);
    std::vector<int16_t> spans;
    for (int y = 0; y < SIDE; ++y) {
      spans.push_back(y < 40 ? 1 : 30);
      spans.push_back(y < 40 ? 0 : 100);
    }
    const dic::MaskRecord record = {0, compared, 1, 1.f, 0};
    const dic::MaskArguments arguments = {
        mask.data(), target.data(), target.data(), spans.data(), &record,
        SIDE,        {6, 20},       {0.9f, 0.99f}, {0.12f, 0.3f}, {0, 0, 0, 1, 0, 0, 0}};
    dic_mask(&arguments, blocks(SIDE * SIDE, dic::MASK_PIXELS), 1, dic::mask_shared(), backwards);
    check(mask[64 * SIDE + 64] == 1.f, "a mask is 1 in the middle", size, 0);
    check(mask[0] == 0.f && mask[SIDE * SIDE - 1] == 0.f, "a mask is 0 in corners", size, 0);
    check(mask[10 * SIDE + 64] < 1.f, "a mask fades outside the outline", size, 0);

    dic::Peaks peak = {0, 0};
    const dic::PeaksArguments peaks = {face.data(), mask.data(), &peak, SIDE, 0};
    dic_peaks(&peaks, 1, 1, dic::peaks_shared(), backwards);
    check(peak.level == 90.f && peak.weight == 1.f, "peaks are found", size, 0);

    // Small and turned, a face would mix with the 0 outside its crop, as on the CPU's path.
    const int placed = turn != 0 ? 160 : size;
    Bytes memory(60 * 50 * 3, 90);
    const double c = std::cos(turn), s = std::sin(turn);
    const dic::PasteRecord paste = {{c, -s, 1, s, c, 2}, -5, 4, placed, turn != 0, 0, 4,
                                    dic::least(60, placed - 5), dic::least(50, placed + 4)};
    const dic::PasteArguments pasted = {framed(memory, 60, 50, 3, 1), face.data(), mask.data(),
                                        &peak, &paste, 1, SIDE};
    dic_paste(&pasted, blocks(60 * 50, dic::THREADS), 1, 0, backwards);
    for (unsigned char level : memory) {
      // Weights of cubic interpolation sum to 1 within rounding.
      check(level == 90, "pasting an equal face changes nothing", size, level);
    }
  }
}

void landmarks_are_mapped() {
  const std::vector<float> points = {1, 2, 0, 0};
  const std::vector<double> matrix = {2, 0, 5, 0, 3, -1};
  std::vector<double> placed(4);
  const dic::LandmarksArguments arguments = {points.data(), matrix.data(), placed.data(), 2, 0};
  dic_landmarks(&arguments, 1, 1, 0, 0);
  check(placed == std::vector<double>({7, 5, 5, -1}), "landmarks are mapped", 0, 0);
}

}  // namespace

int main() {
  for (int channels : {1, 3, 4}) {
    for (int depth : {1, 2}) {
      one_level_stays(1, 1, channels, depth, 5, 0);
      one_level_stays(37, 21, channels, depth, 16, 0.4);
      one_level_stays(300, 9, channels, depth, 131, -2.0);
    }
  }
  for (int size : {1, 3, 16, 40, 64}) {
    for (double turn : {0.0, 0.7}) {
      an_equal_face_changes_nothing(size, size > 16, turn);
    }
  }
  landmarks_are_mapped();
  std::puts("kernels: all held");
}
