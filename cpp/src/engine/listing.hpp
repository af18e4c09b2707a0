// State as one list of named arrays. Each owner appends its own; values for all of them are checked and copied here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
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
    /// Refuses a value that a number must not have.
    using Check = void (*)(const std::string& who, const void* value);

    explicit Listing(Extent extent) : extent_(extent) {}

    Extent extent() const { return extent_; }
    void add(std::string name, const Tensor& tensor, Check check = nullptr);

    /// A count of calls, steps and the like.
    void add_counter(std::string name, std::int64_t& count);

    /// A number.
    void add(std::string name, double& number, Check check = nullptr);

    /// All of another one, its names behind a prefix.
    void append(Listing&& other, const std::string& prefix);

    std::size_t size() const { return tensors_.size(); }
    const std::vector<NamedTensor>& tensors() const { return tensors_; }
    const std::vector<Check>& checks() const { return checks_; }

private:
    Extent extent_;
    std::vector<NamedTensor> tensors_;
    std::vector<Check> checks_;
};

/// Values for a listing. The constructor checks all of them; `copy` writes them.
class Loading {
public:
    Loading(Listing listing, std::span<const Tensor> values);

    Extent extent() const { return listing_.extent(); }

    /// Whether there is a value for a listed array. An empty tensor leaves what is there, if the listing is complete.
    bool has(const void* listed) const { return positions_.contains(listed); }

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
