// Pillow's antialiased resize of 8-bit images (`Resample.c`), to the bit: whole numbers, rows first, then columns, each
// rounded to 8 bits. Its weights come from images/resize.py. One call works on one image and in one thread.

#include <cstdint>
#include <cstring>
#include <vector>

namespace {

typedef int32_t Eight __attribute__((vector_size(32)));

constexpr int PRECISION = 22;  // binary places of the weights

inline Eight load(const int32_t* at) {
    Eight v;
    std::memcpy(&v, at, 32);
    return v;
}

inline uint8_t rounded(int32_t sum) {
    const int32_t v = (sum + (1 << (PRECISION - 1))) >> PRECISION;
    return uint8_t(v < 0 ? 0 : v > 255 ? 255 : v);
}

// With the lanes of a and b side by side: the lanes that `even` names plus those that `odd` names.
inline Eight paired(Eight a, Eight b, Eight even, Eight odd) {
    return __builtin_shuffle(a, b, even) + __builtin_shuffle(a, b, odd);
}

// The sums over the lanes of eight vectors, as one vector.
inline Eight added(const Eight v[8]) {
    const Eight even1 = {0, 8, 2, 10, 4, 12, 6, 14}, odd1 = {1, 9, 3, 11, 5, 13, 7, 15};
    const Eight even2 = {0, 1, 8, 9, 4, 5, 12, 13}, odd2 = {2, 3, 10, 11, 6, 7, 14, 15};
    const Eight even3 = {0, 1, 2, 3, 8, 9, 10, 11}, odd3 = {4, 5, 6, 7, 12, 13, 14, 15};
    Eight two[4];
    for (int i = 0; i < 4; ++i) two[i] = paired(v[2 * i], v[2 * i + 1], even1, odd1);
    return paired(paired(two[0], two[1], even2, odd2), paired(two[2], two[3], even2, odd2), even3, odd3);
}

}  // namespace

// From `image` (height, width, channels) uint8, whose rows lie `stride` bytes apart, to `out` (channels, out_h, out_w).
// The weights of an axis are (out, taps) int32, where `taps` is a multiple of 8 and the rest is 0; they are for the pixels
// from `first` (out,) on. `end_y` (out,) is the pixel where those of a row of the result end.
extern "C" void resize_uint8(const uint8_t* image, int64_t height, int64_t width, int64_t channels, int64_t stride,
                             uint8_t* out, int64_t out_h, int64_t out_w, const int32_t* weights_x,
                             const int64_t* first_x, int64_t taps_x, const int32_t* weights_y, const int64_t* first_y,
                             const int64_t* end_y, int64_t taps_y) {
    thread_local std::vector<int32_t> line, sums;
    thread_local std::vector<uint8_t> narrow;
    line.assign(size_t(width + taps_x), 0);  // weights of 0 reach beyond the row
    sums.resize(size_t(out_w + 8));
    narrow.resize(size_t(height * out_w));
    for (int64_t c = 0; c < channels; ++c) {
        for (int64_t y = 0; y < height; ++y) {
            const uint8_t* from = image + y * stride + c;
            int32_t* pixel = line.data();
            if (channels == 3)
                for (int64_t x = 0; x < width; ++x) pixel[x] = from[3 * x];
            else
                for (int64_t x = 0; x < width; ++x) pixel[x] = from[channels * x];
            int32_t* total = sums.data();
            for (int64_t x = 0; x < out_w; x += 8) {  // eight at a time; where fewer are left, the last is repeated
                Eight sum[8];
                for (int64_t i = 0; i < 8; ++i) {
                    const int64_t at = x + i < out_w ? x + i : out_w - 1;
                    const int32_t *p = pixel + first_x[at], *w = weights_x + at * taps_x;
                    sum[i] = Eight{};
                    for (int64_t t = 0; t < taps_x; t += 8) sum[i] += load(p + t) * load(w + t);
                }
                const Eight all = added(sum);
                std::memcpy(total + x, &all, 32);
            }
            uint8_t* to = narrow.data() + y * out_w;
            for (int64_t x = 0; x < out_w; ++x) to[x] = rounded(total[x]);
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
