// State as one list of named arrays. Each owner appends its own; values for all of them are checked and copied here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include <fusedopt/optimizer.hpp>

namespace fusedopt {

/// How much of the state is listed.
enum class Extent {
    keras,     // what Keras lists
    wrapped,   // what Keras lists of a wrapped optimizer: neither the rule's numbers, which are restored, nor
               // placeholders
    complete,  // what it takes to go on bit for bit: with master copies, and without what is derived
};

class Listing {
public:
    /// Refuses a value that must not be loaded.
    using Check = void (*)(const std::string& who, const Tensor& value);

    /// Writes numbers that are kept in another form.
    using Read = std::function<void(float* values)>;

    struct Entry {
        std::string name;
        Tensor tensor;
        Check check = nullptr;
        Read read = nullptr;                 // null: the tensor is a live view
        std::optional<Tensor> numbers = {};  // of codes: where they are, as the float32 numbers that may be given
        bool are_scales = false;             // of the codes that are listed just before
    };

    explicit Listing(Extent extent) : extent_(extent) {}

    Extent extent() const { return extent_; }
    void add(std::string name, const Tensor& tensor, Check check = nullptr);

    /// Codes of slots. In their place their numbers may be loaded, as float32 of this shape, and their owner codes
    /// them.
    void add_codes(std::string name, const Tensor& codes, std::span<const std::int64_t> shape, Check check = nullptr);

    /// Scales of the codes that were added last. Both are loaded, or neither.
    void add_scales(std::string name, const Tensor& scales, Check check);

    /// Numbers that are kept as codes. They are listed as a float32 copy, and its owner codes what is loaded.
    void add_copy(std::string name, void* codes, std::span<const std::int64_t> shape, Read read, Check check = nullptr);

    /// A count of calls, steps and the like.
    void add_counter(std::string name, std::int64_t& count);

    /// A number.
    void add(std::string name, double& number, Check check = nullptr);

    /// All of another one, its names behind a prefix.
    void append(Listing&& other, const std::string& prefix);

    const std::vector<Entry>& entries() const { return entries_; }

    /// Live views and copies, under the locks of all whose state it is.
    std::vector<NamedTensor> tensors() const;

private:
    Extent extent_;
    std::vector<Entry> entries_;
};

/// Values for a listing. The constructor checks all of them; `copy` writes them.
class Loading {
public:
    Loading(Listing listing, std::span<const Tensor> values);

    Extent extent() const { return listing_.extent(); }

    /// Whether there is a value for a listed array. An empty tensor leaves what is there, if the listing is complete.
    bool has(const void* listed) const { return positions_.contains(listed); }

    /// The numbers for a slot that is kept as these codes; null: none, or codes.
    const float* numbers_for(const void* codes) const {
        const auto found = numbers_.find(codes);
        return found == numbers_.end() ? nullptr : found->second;
    }

    /// What a number will be.
    template <class Number>
    Number value(const Number& listed) const {
        Number number = listed;
        if (const auto found = positions_.find(&listed); found != positions_.end()) {
            std::memcpy(&number, values_[found->second].data(), sizeof(number));
        }
        return number;
    }

    void copy() const noexcept;

private:
    Listing listing_;
    std::span<const Tensor> values_;
    std::unordered_map<const void*, std::size_t> positions_;  // of the values, by the memory that they are for
    std::unordered_map<const void*, const float*> numbers_;   // for codes
};

/// Loads a state that appends itself to what an owner around it has listed. All or nothing.
template <class State>
void load(State& state, Listing listing, std::span<const Tensor> values) {
    state.require_loadable();
    state.append_to(listing);
    const Loading loading(std::move(listing), values);
    const auto numbers = state.numbers_after(loading);
    state.catch_up_all();
    loading.copy();
    state.settle(loading, numbers);
}

}  // namespace fusedopt
