// What ranks send each other: gradients, sums of squares, weights. Elements go in windows, so that buffers stay small
// and no count exceeds what an int holds, whatever the size of the model. While one window is summed and swept, the
// next one is under way.
// One file, though long: how a window is sent and how it is taken must fit together.
#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

#include "engine/ranks.hpp"
#include "engine/stepping.hpp"
#include "runtime/float_environment.hpp"
#include "runtime/levels.hpp"

namespace fusedopt {
namespace {

/// Of a window, over all ranks. What is packed is still in a cache when it is sent: two ranks on an EPYC took 1.5 times
/// as long with 2^21, and 1.3 times with 2^15.
constexpr std::int64_t window_elements = std::int64_t{1} << 19;
/// Of one rank in a window. With fewer, the exchanges of many ranks would be all latency.
constexpr std::int64_t fewest_elements = std::int64_t{1} << 15;

DType sum_type(DType dtype) {
    return dtype == DType::float64 ? DType::float64 : DType::float32;
}

std::int64_t item(DType dtype) {
    return static_cast<std::int64_t>(item_size(dtype));
}

std::int64_t up_to(std::int64_t n, std::int64_t multiple) {
    return (n + multiple - 1) / multiple * multiple;
}

std::int64_t sum_of(const std::vector<std::int64_t>& counts) {
    return std::accumulate(counts.begin(), counts.end(), std::int64_t{0});
}

void grow(std::vector<std::byte>& memory, std::int64_t bytes) {
    if (memory.size() < static_cast<std::size_t>(bytes)) memory.resize(static_cast<std::size_t>(bytes));
}

std::span<std::byte> first_of(std::vector<std::byte>& memory, std::int64_t bytes) {
    return std::span(memory).first(static_cast<std::size_t>(bytes));
}

/// Copies elements [begin, end) in C order, whatever the strides.
void pack(const Tensor& tensor, std::int64_t begin, std::int64_t end, std::byte* out) {
    const std::size_t bytes = item_size(tensor.dtype());
    const auto* data = static_cast<const std::byte*>(tensor.data());
    if (tensor.is_contiguous()) {
        std::memcpy(out, data + static_cast<std::size_t>(begin) * bytes, static_cast<std::size_t>(end - begin) * bytes);
        return;
    }
    const auto shape = tensor.shape(), strides = tensor.strides();
    for (std::int64_t i = begin; i < end; ++i, out += bytes) {
        std::int64_t rest = i, offset = 0;
        for (std::size_t d = shape.size(); d-- > 0; rest /= shape[d]) offset += rest % shape[d] * strides[d];
        std::memcpy(out, data + offset, bytes);
    }
}

}  // namespace

std::vector<std::int64_t> Ranks::borders(std::size_t variable) const {
    static_cast<void>(checked_index(std::span(&variable, 1), 0, variables_.size()));
    std::vector<std::int64_t> all{0};
    for (std::size_t k = 0; k < agreement_.size(); ++k) all.push_back(all.back() + shares_.piece(variable, k).size());
    return all;
}

/// So many elements of a rank fill a window.
std::int64_t Ranks::room() const {
    return std::max(window_elements / static_cast<std::int64_t>(agreement_.size()), fewest_elements);
}

/// Finds memory for any window of elements of so many bytes, before anybody counts on this rank.
void Ranks::reserve_exchanges(std::int64_t item_bytes) {
    std::int64_t most = 0;
    for (std::size_t k = 0; k < agreement_.size(); ++k) {
        std::int64_t elements = 0;
        for (const Piece& piece : shares_.of(k)) elements += piece.size();
        most = std::max(most, std::min(elements, room() + kernel::tile));
    }
    const std::int64_t of_rank = most * item_bytes + static_cast<std::int64_t>(variables_.size()) * 8;
    for (auto* exchanges : {&gradient_exchanges_, &weight_exchanges_}) {
        for (Exchange& exchange : *exchanges) {
            grow(exchange.send, of_rank * static_cast<std::int64_t>(agreement_.size()));
            grow(exchange.receive, of_rank * static_cast<std::int64_t>(agreement_.size()));
        }
    }
}

/// Cuts what each rank has of the exchanged variables into windows, at tile borders.
void Ranks::plan_windows() {
    windows_.clear();
    for (std::size_t k = 0; k < agreement_.size(); ++k) {
        std::size_t window = 0;
        std::int64_t left = room();
        for (const Piece& all : shares_.of(k)) {
            if (!is_exchanged_[all.variable]) continue;
            for (std::int64_t begin = all.begin, end; begin < all.end; begin = end) {
                end = std::min(all.begin + up_to(begin + left - all.begin, kernel::tile), all.end);
                if (window == windows_.size()) windows_.emplace_back(agreement_.size());
                windows_[window][k].push_back({all.variable, begin, end});
                left -= end - begin;
                if (left > 0) continue;
                left = room();
                ++window;
            }
        }
    }
}

/// Calls work(part, offset, begin, end) on threads, for all elements of some parts. The bytes of a part lie `offset`
/// behind those of the first one.
template <class Bytes, class Work>
void Ranks::run_on(std::span<const Piece> parts, const Bytes& bytes_of, const Work& work) {
    offsets_.clear();
    part_plan_.clear();
    std::int64_t offset = 0;
    for (std::size_t p = 0; p < parts.size(); ++p) {
        part_plan_.add(p, parts[p].size());
        offsets_.push_back(offset);
        offset += bytes_of(parts[p]);
    }
    part_plan_.run([&](std::size_t p, std::int64_t begin, std::int64_t end) {
        const Piece& part = parts[p];
        work(part, offsets_[p], part.begin + begin, part.begin + end);
    });
}

/// Finds memory for the sums of all ranks' gradients over this rank's elements, and makes `pieces_` of it.
void Ranks::reserve_sums() {
    std::vector<char> is_exchanged(gradients_.size());
    std::vector<std::int64_t> offsets(gradients_.size());
    std::int64_t bytes = 0, largest = 0;
    for (std::size_t i = 0; i < gradients_.size(); ++i) {
        if (!gradients_[i]) continue;
        is_exchanged[i] = true;
        largest = std::max(largest, item(gradients_[i].dtype()));
        offsets[i] = bytes;
        bytes += up_to(own(i).size() * item(sum_type(gradients_[i].dtype())), 64);
    }
    choose_exchanged(std::move(is_exchanged));
    reserve_exchanges(largest);
    grow(memory_, bytes);
    pieces_.assign(gradients_.size(), Tensor());
    for (std::size_t i = 0; i < gradients_.size(); ++i) {
        if (!gradients_[i]) continue;
        pieces_[i] = Tensor(memory_.data() + offsets[i], sum_type(gradients_[i].dtype()), piece_shape(i));
    }
}

void Ranks::choose_exchanged(std::vector<char> is_exchanged) {
    if (is_exchanged == is_exchanged_) return;
    is_exchanged_ = std::move(is_exchanged);
    plan_windows();
}

// Each part is aligned for any type.
std::int64_t Ranks::gradient_bytes(const Piece& part) const {
    return up_to(part.size() * item(gradients_[part.variable].dtype()), 8);
}

/// Where a part lies as it is to be sent; null if it must be packed.
const std::byte* Ranks::gradient_in_place(const Piece& part) const {
    const Tensor& gradient = gradients_[part.variable];
    const std::int64_t bytes = item(gradient.dtype());
    if (!gradient.is_contiguous() || part.size() * bytes != gradient_bytes(part)) return nullptr;
    return static_cast<const std::byte*>(gradient.data()) + part.begin * bytes;
}

/// Begins to exchange a window of gradients.
void Ranks::send_gradients(std::size_t window) {
    const std::size_t rank = agreement_.rank(), size = agreement_.size();
    Exchange& exchange = gradient_exchanges_[window % 2];
    const auto bytes_of = [&](const Piece& part) { return gradient_bytes(part); };
    std::vector<Piece> sent;
    exchange.send_counts.assign(size, 0);
    for (std::size_t k = 0; k < size; ++k) {
        if (k == rank) continue;
        for (const Piece& part : windows_[window][k]) {
            sent.push_back(part);
            exchange.send_counts[k] += gradient_bytes(part);
        }
    }
    const std::int64_t all_sent = sum_of(exchange.send_counts);
    std::span<const std::byte> send = first_of(exchange.send, all_sent);
    if (const std::byte* const there = sent.size() == 1 ? gradient_in_place(sent.front()) : nullptr) {
        send = {there, static_cast<std::size_t>(all_sent)};
    } else {
        run_on(sent, bytes_of, [&](const Piece& part, std::int64_t offset, std::int64_t begin, std::int64_t end) {
            const Tensor& gradient = gradients_[part.variable];
            const std::int64_t before = offset + (begin - part.begin) * item(gradient.dtype());
            pack(gradient, begin, end, exchange.send.data() + before);
        });
    }
    std::int64_t bytes = 0;
    for (const Piece& part : windows_[window][rank]) bytes += gradient_bytes(part);
    exchange.receive_counts.assign(size, bytes);
    exchange.receive_counts[rank] = 0;
    const std::span<std::byte> receive = first_of(exchange.receive, sum_of(exchange.receive_counts));
    exchange.wait = agreement_.communicator().alltoallv(send, exchange.send_counts, receive, exchange.receive_counts);
}

/// Adds up a window of gradients in a tree, whose first branch has as many ranks as the largest power of two that
/// leaves some for the other one.
void Ranks::sum_gradients(std::size_t window) {
    const std::size_t rank = agreement_.rank(), size = agreement_.size();
    Exchange& exchange = gradient_exchanges_[window % 2];
    exchange.finish();
    using Memory = std::array<std::byte, kernel::tile * sizeof(double)>;
    const kernel::Kernels& kernels = current_kernels();
    const std::int64_t from_each = exchange.receive_counts[rank == 0 ? size - 1 : 0];
    const auto bytes_of = [&](const Piece& part) { return gradient_bytes(part); };
    const auto sum = [&](const Piece& part, std::int64_t offset, std::int64_t begin, std::int64_t end) {
        // Subnormals count: the sum is that which any program would compute.
        const FloatEnvironment environment(Subnormals::kept);
        const Tensor &gradient = gradients_[part.variable], &piece = pieces_[part.variable];
        const std::int64_t bytes = item(gradient.dtype());
        const kernel::Element element = element_of(gradient.dtype()), of_sum = element_of(piece.dtype());
        const bool is_plain = gradient.is_contiguous() && gradient.is_aligned();
        alignas(64) Memory packed;
        for (std::int64_t next; begin < end; begin = next) {  // so little that the sum stays in the first cache
            next = std::min(begin + kernel::tile, end);
            const std::int64_t count = next - begin;
            const auto gradient_of = [&](std::size_t k) -> const void* {
                if (k != rank) {
                    const std::int64_t before = static_cast<std::int64_t>(k < rank ? k : k - 1) * from_each;
                    return exchange.receive.data() + before + offset + (begin - part.begin) * bytes;
                }
                if (is_plain) return static_cast<const std::byte*>(gradient.data()) + begin * bytes;
                pack(gradient, begin, next, packed.data());
                return packed.data();
            };
            const auto add_up = [&](const auto& self, std::size_t first, std::size_t ranks, void* total) -> void {
                if (ranks == 1) return kernels.add(gradient_of(first), element, count, true, total);
                const std::size_t branch = std::bit_floor(ranks - 1), second = first + branch;
                self(self, first, branch, total);
                if (ranks - branch == 1) return kernels.add(gradient_of(second), element, count, false, total);
                alignas(64) Memory other;
                self(self, second, ranks - branch, other.data());
                kernels.add(other.data(), of_sum, count, false, total);
            };
            void* const total =
                static_cast<std::byte*>(piece.data()) + (begin - own(part.variable).begin) * item(piece.dtype());
            add_up(add_up, 0, size, total);
            if (average_) kernels.divide(total, of_sum, count, static_cast<double>(size));
        }
    };
    run_on(windows_[window][rank], bytes_of, sum);
}

/// Puts the sums of all ranks' gradients over this rank's elements into `pieces_`.
void Ranks::sum_all_gradients() {
    if (!windows_.empty()) send_gradients(0);
    for (std::size_t w = 0; w < windows_.size(); ++w) {
        if (w + 1 < windows_.size()) send_gradients(w + 1);
        sum_gradients(w);
    }
}

/// Adds up the tiles of each variable in their order, whoever has measured them.
void Ranks::exchange_squares(const Scaling& scaling) {
    squares_.clear();
    std::vector<std::int64_t> counts(agreement_.size(), 0);
    std::size_t total = 0;
    const auto for_each_piece_of = [&](std::size_t rank, const auto& work) {
        for (const Piece& piece : shares_.of(rank)) {
            const std::size_t i = piece.variable;
            if (gradients_[i] && state_of(i).needs_norm(scaling)) work(i, tiles_of(piece.size()));
        }
    };
    for (std::size_t k = 0; k < agreement_.size(); ++k) {
        for_each_piece_of(k, [&](std::size_t i, std::size_t tiles) {
            counts[k] += static_cast<std::int64_t>(tiles * sizeof(double));
            total += tiles;
            if (k != agreement_.rank()) return;
            const std::span<const double> own_tiles = state_of(i).tile_sums(places_[i].index);
            squares_.insert(squares_.end(), own_tiles.begin(), own_tiles.end());
        });
    }
    all_squares_.resize(total);
    agreement_.gather(std::as_bytes(std::span(squares_)), std::as_writable_bytes(std::span(all_squares_)), counts);
    const FloatEnvironment environment;
    for (Optimizer::State* const state : states_) state->sums_over_ranks.assign(state->variables.size(), 0.0);
    std::size_t next = 0;
    for (std::size_t k = 0; k < agreement_.size(); ++k) {
        for_each_piece_of(k, [&](std::size_t i, std::size_t tiles) {
            double& sum = states_[places_[i].optimizer]->sums_over_ranks[places_[i].index];
            for (; tiles > 0; --tiles) sum += all_squares_[next++];
        });
    }
}

std::byte* Ranks::weights_at(const Piece& part, std::int64_t element) const {
    const Tensor& tensor = variables_[part.variable].tensor;
    return static_cast<std::byte*>(tensor.data()) + element * item(tensor.dtype());
}

std::int64_t Ranks::weight_bytes(const Piece& part) const {
    return part.size() * item(variables_[part.variable].tensor.dtype());
}

/// Begins to give all ranks a window of this rank's weights.
void Ranks::send_weights(std::size_t window) {
    const std::size_t rank = agreement_.rank(), size = agreement_.size();
    Exchange& exchange = weight_exchanges_[window % 2];
    const auto bytes_of = [&](const Piece& part) { return weight_bytes(part); };
    exchange.receive_counts.assign(size, 0);
    for (std::size_t k = 0; k < size; ++k) {
        for (const Piece& part : windows_[window][k]) exchange.receive_counts[k] += weight_bytes(part);
    }
    const std::int64_t all_sent = exchange.receive_counts[rank];
    const std::vector<Piece>& own_parts = windows_[window][rank];
    std::span<const std::byte> send = first_of(exchange.send, all_sent);
    if (own_parts.size() == 1) {
        send = {weights_at(own_parts.front(), own_parts.front().begin), static_cast<std::size_t>(all_sent)};
    } else {
        run_on(own_parts, bytes_of, [&](const Piece& part, std::int64_t offset, std::int64_t begin, std::int64_t end) {
            const std::byte* from = weights_at(part, begin);
            std::byte* to = exchange.send.data() + offset + (from - weights_at(part, part.begin));
            std::memcpy(to, from, static_cast<std::size_t>(weights_at(part, end) - from));
        });
    }
    if (size == 2) return swap_weights(window, send);
    exchange.received = first_of(exchange.receive, sum_of(exchange.receive_counts));
    exchange.wait = agreement_.communicator().allgatherv(send, exchange.received, exchange.receive_counts);
}

/// The same between two ranks, of which none need copy its own, and each may receive straight into its variables.
void Ranks::swap_weights(std::size_t window, std::span<const std::byte> send) {
    const std::size_t rank = agreement_.rank(), other = 1 - rank;
    Exchange& exchange = weight_exchanges_[window % 2];
    exchange.send_counts.assign(2, 0);
    exchange.send_counts[other] = std::exchange(exchange.receive_counts[rank], 0);
    const std::int64_t all_received = exchange.receive_counts[other];
    exchange.received = first_of(exchange.receive, all_received);
    if (const std::vector<Piece>& parts = windows_[window][other]; parts.size() == 1) {
        std::byte* const there = weights_at(parts.front(), parts.front().begin);
        exchange.received = {there, static_cast<std::size_t>(all_received)};
    }
    exchange.wait =
        agreement_.communicator().alltoallv(send, exchange.send_counts, exchange.received, exchange.receive_counts);
}

/// Takes a window of the other ranks' weights.
void Ranks::take_weights(std::size_t window) {
    Exchange& exchange = weight_exchanges_[window % 2];
    exchange.finish();
    const auto bytes_of = [&](const Piece& part) { return weight_bytes(part); };
    const std::byte* received = exchange.received.data();
    for (std::size_t k = 0; k < agreement_.size(); ++k) {
        if (k != agreement_.rank()) {
            run_on(windows_[window][k], bytes_of,
                   [&](const Piece& part, std::int64_t offset, std::int64_t begin, std::int64_t end) {
                       std::byte* to = weights_at(part, begin);
                       const std::byte* from = received + offset + (to - weights_at(part, part.begin));
                       if (from == to) return;  // received straight into the variable
                       std::memcpy(to, from, static_cast<std::size_t>(weights_at(part, end) - to));
                   });
        }
        received += exchange.receive_counts[k];
    }
}

/// Steps on this rank's elements, whose gradients may be summed already, and may give all ranks the new weights.
void Ranks::step_by_windows(Optimizer::State& state, bool gives_weights) {
    const std::size_t count = windows_.size();
    if (!is_summed_ && count > 0) send_gradients(0);
    state.begin_commit();
    for (std::size_t w = 0; w < count; ++w) {
        if (!is_summed_) {
            if (w + 1 < count) send_gradients(w + 1);
            sum_gradients(w);
        }
        if (const std::vector<Piece>& parts = windows_[w][agreement_.rank()]; !parts.empty()) {
            const Piece& last = parts.back();
            state.sweep_until(last.variable, last.end - own(last.variable).begin);
        }
        if (!gives_weights) continue;
        send_weights(w);
        if (w > 0) take_weights(w - 1);
    }
    if (gives_weights && count > 0) take_weights(count - 1);
    state.end_commit();
}

/// Gives all ranks the weights of some variables.
void Ranks::exchange_weights(std::vector<char> is_exchanged) {
    if (std::ranges::count(is_exchanged, true) == 0) return;
    is_torn_ = true;
    choose_exchanged(std::move(is_exchanged));
    for (std::size_t w = 0; w < windows_.size(); ++w) {
        send_weights(w);
        if (w > 0) take_weights(w - 1);
    }
    if (!windows_.empty()) take_weights(windows_.size() - 1);
    is_torn_ = false;
}

}  // namespace fusedopt
