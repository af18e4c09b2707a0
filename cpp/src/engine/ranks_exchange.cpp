// What ranks send each other: gradients, sums of squares, weights. Elements go in windows, so that buffers stay small
// and no count exceeds what an int holds, whatever the size of the model.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "engine/ranks.hpp"
#include "engine/state.hpp"
#include "runtime/float_environment.hpp"
#include "runtime/levels.hpp"

namespace fusedopt {
namespace {

/// Of a window, over all ranks. What is packed is still in a cache when it is sent: two ranks on an EPYC took 1.5 times
/// as long with 2^21, and 1.3 times with 2^15.
constexpr std::int64_t window_elements = std::int64_t{1} << 19;

DType sum_type(DType dtype) {
    return dtype == DType::float64 ? DType::float64 : DType::float32;
}

/// Copies elements [begin, end) in C order, whatever the strides.
void pack(const Tensor& tensor, std::int64_t begin, std::int64_t end, std::byte* out) {
    const std::size_t item = item_size(tensor.dtype());
    const auto* data = static_cast<const std::byte*>(tensor.data());
    if (tensor.is_contiguous()) {
        std::memcpy(out, data + static_cast<std::size_t>(begin) * item, static_cast<std::size_t>(end - begin) * item);
        return;
    }
    const auto shape = tensor.shape(), strides = tensor.strides();
    for (std::int64_t i = begin; i < end; ++i, out += item) {
        std::int64_t rest = i, offset = 0;
        for (std::size_t d = shape.size(); d-- > 0; rest /= shape[d]) offset += rest % shape[d] * strides[d];
        std::memcpy(out, data + offset, item);
    }
}

}  // namespace

std::vector<std::int64_t> Ranks::borders(std::size_t variable) const {
    static_cast<void>(checked_index(std::span(&variable, 1), 0, variables_.size()));
    std::vector<std::int64_t> all{0};
    for (std::size_t k = 0; k < agreement_.size(); ++k) all.push_back(all.back() + shares_.piece(variable, k).size());
    return all;
}

/// Visits the next elements of a rank that fill a window, and returns their bytes.
template <class Visit>
std::int64_t Ranks::walk(std::size_t rank, Cursor& cursor, const Visit& visit) const {
    std::int64_t room = std::max(window_elements / static_cast<std::int64_t>(agreement_.size()), kernel::tile);
    std::int64_t bytes = 0;
    const std::span<const Piece> pieces = shares_.of(rank);
    while (room > 0 && cursor.piece < pieces.size()) {
        const Piece& all = pieces[cursor.piece];
        const std::int64_t begin = std::max(cursor.element, all.begin), end = std::min(begin + room, all.end);
        if (is_exchanged_[all.variable]) {
            bytes += visit(all.variable, begin, end);
            room -= end - begin;
            cursor.element = end;
            if (end < all.end) continue;
        }
        cursor = {cursor.piece + 1, 0};
    }
    return bytes;
}

void Ranks::begin_windows() {
    cursors_.assign(agreement_.size(), {0, 0});
    send_counts_.resize(agreement_.size());
    receive_counts_.resize(agreement_.size());
}

std::int64_t Ranks::windows() const {
    const std::int64_t room = std::max(window_elements / static_cast<std::int64_t>(agreement_.size()), kernel::tile);
    std::int64_t most = 0;
    for (std::size_t k = 0; k < agreement_.size(); ++k) {
        std::int64_t elements = 0;
        for (const Piece& piece : shares_.of(k)) {
            if (is_exchanged_[piece.variable]) elements += piece.size();
        }
        most = std::max(most, (elements + room - 1) / room);
    }
    return most;
}

/// Puts the sums of all ranks' gradients over this rank's elements into `pieces_`.
void Ranks::sum_gradients() {
    std::vector<std::size_t> offsets(gradients_.size());
    std::size_t bytes = 0;
    is_exchanged_.assign(gradients_.size(), false);
    for (std::size_t i = 0; i < gradients_.size(); ++i) {
        if (!gradients_[i]) continue;
        is_exchanged_[i] = true;
        offsets[i] = bytes;
        bytes += (static_cast<std::size_t>(own(i).size()) * item_size(sum_type(gradients_[i].dtype())) + 63) / 64 * 64;
    }
    if (sums_.size() < bytes) sums_.resize(bytes);
    pieces_.assign(gradients_.size(), Tensor());
    for (std::size_t i = 0; i < gradients_.size(); ++i) {
        if (!gradients_[i]) continue;
        pieces_[i] = Tensor(sums_.data() + offsets[i], sum_type(gradients_[i].dtype()), shape_of_own(i));
    }
    exchange_windows_of_gradients();
}

void Ranks::exchange_windows_of_gradients() {
    const std::size_t rank = agreement_.rank(), size = agreement_.size();
    const kernel::Kernels& kernels = current_kernels();
    // Each part is aligned for any type.
    const auto bytes_of = [&](std::size_t i, std::int64_t begin, std::int64_t end) {
        return ((end - begin) * static_cast<std::int64_t>(item_size(gradients_[i].dtype())) + 7) / 8 * 8;
    };
    const auto sum_at = [&](std::size_t i, std::int64_t element) {
        const auto item = static_cast<std::int64_t>(item_size(pieces_[i].dtype()));
        return static_cast<std::byte*>(pieces_[i].data()) + (element - own(i).begin) * item;
    };
    begin_windows();
    for (std::int64_t left = windows(); left > 0; --left) {
        const Cursor own_window = cursors_[rank];
        std::size_t sent = 0;
        const auto pack_next = [&](std::size_t i, std::int64_t begin, std::int64_t end) {
            const std::int64_t bytes = bytes_of(i, begin, end);
            const std::size_t needed = sent + static_cast<std::size_t>(bytes);
            if (send_.size() < needed) send_.resize(needed);
            pack(gradients_[i], begin, end, send_.data() + sent);
            sent = needed;
            return bytes;
        };
        for (std::size_t k = 0; k < size; ++k) {
            send_counts_[k] = k == rank ? 0 : walk(k, cursors_[k], pack_next);
        }
        receive_counts_.assign(size, walk(rank, cursors_[rank], bytes_of));
        const std::size_t received = (size - 1) * static_cast<std::size_t>(receive_counts_[rank]);
        receive_counts_[rank] = 0;
        if (receive_.size() < received) receive_.resize(received);
        agreement_.communicator().alltoallv(std::span(send_).first(sent), send_counts_,
                                            std::span(receive_).first(received), receive_counts_);
        const auto own_values = [&](std::size_t i, std::int64_t begin, std::int64_t end) -> const void* {
            const Tensor& gradient = gradients_[i];
            const auto item = static_cast<std::int64_t>(item_size(gradient.dtype()));
            if (gradient.is_contiguous() && gradient.is_aligned()) {
                return static_cast<const std::byte*>(gradient.data()) + begin * item;
            }
            const auto needed = static_cast<std::size_t>((end - begin) * item);
            if (send_.size() < needed) send_.resize(needed);
            pack(gradient, begin, end, send_.data());
            return send_.data();
        };
        // Subnormals count: the sum is that which any program would compute.
        const FloatEnvironment environment(Subnormals::kept);
        const std::byte* values = receive_.data();
        for (std::size_t k = 0; k < size; ++k) {
            Cursor again = own_window;
            static_cast<void>(walk(rank, again, [&](std::size_t i, std::int64_t begin, std::int64_t end) {
                const std::int64_t bytes = bytes_of(i, begin, end);
                const kernel::Element element = element_of(gradients_[i].dtype());
                const void* addend = values;
                if (k == rank) {
                    addend = own_values(i, begin, end);
                } else {
                    values += bytes;
                }
                kernels.add(addend, element, end - begin, k == 0, sum_at(i, begin));
                if (average_ && k + 1 == size) {
                    kernels.divide(sum_at(i, begin), element, end - begin, static_cast<double>(size));
                }
                return bytes;
            }));
        }
    }
}

/// Adds up the tiles of each variable in their order, whoever has measured them.
void Ranks::exchange_squares(const Optimizer::State& state) {
    squares_.clear();
    receive_counts_.assign(agreement_.size(), 0);
    std::size_t total = 0;
    const auto for_each_piece_of = [&](std::size_t rank, const auto& work) {
        for (const Piece& piece : shares_.of(rank)) {
            if (gradients_[piece.variable]) work(piece.variable, tiles_of(piece.size()));
        }
    };
    for (std::size_t k = 0; k < agreement_.size(); ++k) {
        for_each_piece_of(k, [&](std::size_t i, std::size_t tiles) {
            receive_counts_[k] += static_cast<std::int64_t>(tiles * sizeof(double));
            total += tiles;
            if (k != agreement_.rank()) return;
            const std::span<const double> own_tiles = state.tile_sums(i);
            squares_.insert(squares_.end(), own_tiles.begin(), own_tiles.end());
        });
    }
    all_squares_.resize(total);
    agreement_.communicator().allgatherv(std::as_bytes(std::span(squares_)),
                                         std::as_writable_bytes(std::span(all_squares_)), receive_counts_);
    const FloatEnvironment environment;
    sums_of_squares_.assign(gradients_.size(), 0.0);
    std::size_t next = 0;
    for (std::size_t k = 0; k < agreement_.size(); ++k) {
        for_each_piece_of(k, [&](std::size_t i, std::size_t tiles) {
            for (; tiles > 0; --tiles) sums_of_squares_[i] += all_squares_[next++];
        });
    }
}

/// Gives all ranks the weights of the variables that are exchanged.
void Ranks::exchange_weights() {
    const std::size_t rank = agreement_.rank();
    const auto at = [&](std::size_t i, std::int64_t element) {
        const Tensor& tensor = variables_[i].tensor;
        return static_cast<std::byte*>(tensor.data()) + element * static_cast<std::int64_t>(item_size(tensor.dtype()));
    };
    is_torn_ = true;
    begin_windows();
    for (std::int64_t left = windows(); left > 0; --left) {
        std::size_t sent = 0, received = 0;
        const std::vector<Cursor> before = cursors_;
        for (std::size_t k = 0; k < agreement_.size(); ++k) {
            receive_counts_[k] = walk(k, cursors_[k], [&](std::size_t i, std::int64_t begin, std::int64_t end) {
                const std::int64_t bytes = at(i, end) - at(i, begin);
                if (k != rank) return bytes;
                const std::size_t needed = sent + static_cast<std::size_t>(bytes);
                if (send_.size() < needed) send_.resize(needed);
                std::memcpy(send_.data() + sent, at(i, begin), static_cast<std::size_t>(bytes));
                sent = needed;
                return bytes;
            });
            received += static_cast<std::size_t>(receive_counts_[k]);
        }
        if (receive_.size() < received) receive_.resize(received);
        agreement_.communicator().allgatherv(std::span(send_).first(sent), std::span(receive_).first(received),
                                             receive_counts_);
        const std::byte* values = receive_.data();
        for (std::size_t k = 0; k < agreement_.size(); ++k) {
            Cursor again = before[k];
            static_cast<void>(walk(k, again, [&](std::size_t i, std::int64_t begin, std::int64_t end) {
                const std::int64_t bytes = at(i, end) - at(i, begin);
                if (k != rank) std::memcpy(at(i, begin), values, static_cast<std::size_t>(bytes));
                values += bytes;
                return bytes;
            }));
        }
    }
    is_torn_ = false;
}

void Ranks::exchange_all_weights() {
    is_exchanged_.assign(variables_.size(), true);
    exchange_weights();
}

}  // namespace fusedopt
