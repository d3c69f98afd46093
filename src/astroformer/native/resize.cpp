// Pillow's antialiased resize of 8-bit images (`Resample.c`), to the bit: whole numbers, rows first, then columns, each
// rounded to 8 bits. Its weights come from images/resize.py. One call works on one image and in one thread.

#include <cstdint>
#include <cstring>
#include <vector>

namespace {

typedef int32_t Eight __attribute__((vector_size(32)));

constexpr int PRECISION = 22;  // binary places of the weights

inline uint8_t rounded(int32_t sum) {
    const int32_t v = (sum + (1 << (PRECISION - 1))) >> PRECISION;
    return uint8_t(v < 0 ? 0 : v > 255 ? 255 : v);
}

}  // namespace

// `image` (height, width, channels) uint8, whose rows lie `stride` bytes apart, to `out` (channels, out_h, out_w).
// Weights (out, taps) int32 with `taps` a multiple of 8, filled up with 0, for the pixels from `first` (out,) on;
// `end_y` (out,) is where those of a row of the result end.
extern "C" void resize_uint8(const uint8_t* image, int64_t height, int64_t width, int64_t channels, int64_t stride,
                             uint8_t* out, int64_t out_h, int64_t out_w, const int32_t* weights_x,
                             const int64_t* first_x, int64_t taps_x, const int32_t* weights_y, const int64_t* first_y,
                             const int64_t* end_y, int64_t taps_y) {
    thread_local std::vector<int32_t> line, sums;
    thread_local std::vector<uint8_t> narrow;
    line.assign(size_t(width + taps_x), 0);  // the weights filled up with 0 reach beyond the row
    sums.resize(size_t(out_w));
    narrow.resize(size_t(height * out_w));
    for (int64_t c = 0; c < channels; ++c) {
        for (int64_t y = 0; y < height; ++y) {
            const uint8_t* from = image + y * stride + c;
            int32_t* pixel = line.data();
            if (channels == 3)
                for (int64_t x = 0; x < width; ++x) pixel[x] = from[3 * x];
            else
                for (int64_t x = 0; x < width; ++x) pixel[x] = from[channels * x];
            for (int64_t x = 0; x < out_w; ++x) {
                Eight sum = {};
                for (int64_t t = 0; t < taps_x; t += 8) {
                    Eight p, w;
                    std::memcpy(&p, pixel + first_x[x] + t, 32);
                    std::memcpy(&w, weights_x + x * taps_x + t, 32);
                    sum += p * w;
                }
                narrow[size_t(y * out_w + x)] =
                    rounded(sum[0] + sum[1] + sum[2] + sum[3] + sum[4] + sum[5] + sum[6] + sum[7]);
            }
        }
        for (int64_t y = 0; y < out_h; ++y) {
            int32_t* total = sums.data();
            for (int64_t x = 0; x < out_w; ++x) total[x] = 0;
            for (int64_t r = first_y[y]; r < end_y[y]; ++r) {
                const int32_t weight = weights_y[y * taps_y + r - first_y[y]];
                const uint8_t* row = narrow.data() + r * out_w;
                for (int64_t x = 0; x < out_w; ++x) total[x] += weight * row[x];
            }
            uint8_t* to = out + (c * out_h + y) * out_w;
            for (int64_t x = 0; x < out_w; ++x) to[x] = rounded(total[x]);
        }
    }
}
