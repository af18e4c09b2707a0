#include <fusedopt/runtime.hpp>

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <atomic>
#include <cstdlib>
#include <string>
#include <variant>
#include <vector>

#include "gil.hpp"
#include "register.hpp"
#include "runtime/float_environment.hpp"
#include "runtime/plain_loop.hpp"

namespace fusedopt::python {

namespace py = pybind11;

namespace {

using Floats = py::array_t<float, py::array::c_style>;
using Words = py::array_t<std::uint32_t, py::array::c_style>;

/// With the arrays it runs on, which live as long.
class PlainLoopOfArrays {
public:
    using OfWords = std::pair<std::vector<Words>, std::vector<Words>>;
    using OfFloats = std::pair<std::vector<Floats>, std::vector<py::array>>;

    explicit PlainLoopOfArrays(const std::vector<std::variant<OfWords, OfFloats>>& tensors) {
        for (const auto& tensor : tensors) {
            std::visit([this](const auto& arrays) { add(arrays.first, arrays.second); }, tensor);
        }
    }

    void operator()() const {
        const Unlocked unlocked;
        loop_.run();
    }

private:
    void add(const std::vector<Words>& updated, const std::vector<Words>& read) {
        std::vector<std::uint32_t*> written;
        std::vector<const std::uint32_t*> sources;
        py::ssize_t size = -1;
        for (Words array : updated) {
            keep(array, size);
            written.push_back(array.mutable_data());
        }
        for (const Words& array : read) {
            keep(array, size);
            sources.push_back(array.data());
        }
        loop_.add_words(written, sources, size < 0 ? 0 : size);
    }

    void add(const std::vector<Floats>& updated, const std::vector<py::array>& read) {
        std::vector<float*> written;
        std::vector<const float*> sources;
        const std::uint16_t* narrow = nullptr;
        py::ssize_t size = -1;
        for (Floats array : updated) {
            keep(array, size);
            written.push_back(array.mutable_data());
        }
        for (const py::array& array : read) {
            keep(array, size);
            if (!(array.flags() & py::array::c_style))
                throw std::invalid_argument("PlainLoop: expected contiguous arrays");
            if (py::isinstance<Floats>(array)) {
                sources.push_back(static_cast<const float*>(array.data()));
            } else if (array.itemsize() == sizeof(std::uint16_t) && !narrow) {
                narrow = static_cast<const std::uint16_t*>(array.data());
            } else {
                throw std::invalid_argument("PlainLoop: expected float32 arrays and at most one of 16 bits to read");
            }
        }
        loop_.add(written, sources, narrow, size < 0 ? 0 : size);
    }

    /// `size` is that of the others, or negative if this is the first array.
    void keep(const py::array& array, py::ssize_t& size) {
        if (size >= 0 && array.size() != size) throw std::invalid_argument("PlainLoop: expected arrays of one size");
        size = array.size();
        arrays_.push_back(array);
    }

    std::vector<py::array> arrays_;
    PlainLoop loop_;
};

using Indices = py::array_t<std::int64_t, py::array::c_style>;

/// With the tables and values it runs on, and its own copy of the indices, which nobody changes after they are checked.
class PlainRowLoopOfArrays {
public:
    PlainRowLoopOfArrays(const std::vector<Floats>& tables, const Floats& values, const Indices& rows,
                         const Indices& positions, std::int64_t ahead)
        : arrays_(tables),
          rows_(rows.data(), rows.data() + rows.size()),
          positions_(positions.data(), positions.data() + positions.size()),
          loop_(checked(values), values.data(), rows_, positions_, row_size_of(values), ahead) {
        arrays_.push_back(values);
    }

    void operator()() const {
        const Unlocked unlocked;
        loop_.run();
    }

private:
    static py::ssize_t row_size_of(const Floats& array) {
        if (array.ndim() != 2 || array.shape(1) == 0)
            throw std::invalid_argument("PlainRowLoop: expected arrays of rows, with two dimensions");
        return array.shape(1);
    }

    std::vector<float*> checked(const Floats& values) {
        std::vector<float*> written;
        for (Floats& table : arrays_) {
            if (row_size_of(table) != row_size_of(values))
                throw std::invalid_argument("PlainRowLoop: expected tables with rows as long as those of the values");
            check(rows_, table.shape(0));
            written.push_back(table.mutable_data());
        }
        check(positions_, values.shape(0));
        return written;
    }

    static void check(const std::vector<std::int64_t>& indices, std::int64_t count) {
        for (const std::int64_t index : indices) {
            if (index < 0 || index >= count)
                throw std::invalid_argument("PlainRowLoop: expected indices from 0 to " + std::to_string(count - 1) +
                                            ", found " + std::to_string(index));
        }
    }

    std::vector<Floats> arrays_;
    std::vector<std::int64_t> rows_, positions_;
    PlainRowLoop loop_;
};

}  // namespace

void warn_of_environment() {
    read_environment();
    static std::atomic<bool> has_warned{false};
    if (!ignores_omp_num_threads() || has_warned.exchange(true)) return;
    warn(PyExc_RuntimeWarning,
         std::string("OMP_NUM_THREADS: expected whole numbers from 1 to 1024 with commas between them, found '") +
             std::getenv("OMP_NUM_THREADS") + "'; fusedopt takes it as unset");
}

void register_runtime(py::module_& module) {
    module.def("version", &version);
    module.def("compiler", &compiler);
    module.def("has_threads", &has_threads);
    module.def("num_threads", [] {
        warn_of_environment();
        return num_threads();
    });
    module.def("num_threads_source", &num_threads_source);
    module.def("num_processors", &num_processors);
    module.def("set_num_threads", &set_num_threads, py::arg("count"));
    module.def("compiled_levels", &compiled_levels);
    module.def("supported_levels", &supported_levels);
    module.def("level", &level);
    module.def("set_level", &set_level, py::arg("name"));
    module.def(
        "in_default_state",
        [](const py::object& function) {
            const FloatEnvironment environment(Subnormals::kept);
            return function();
        },
        py::arg("function"));
    py::class_<PlainLoopOfArrays>(module, "PlainLoop")
        .def(py::init<const std::vector<std::variant<PlainLoopOfArrays::OfWords, PlainLoopOfArrays::OfFloats>>&>(),
             py::arg("tensors").noconvert())
        .def("__call__", &PlainLoopOfArrays::operator());
    py::class_<PlainRowLoopOfArrays>(module, "PlainRowLoop")
        .def(py::init<const std::vector<Floats>&, const Floats&, const Indices&, const Indices&, std::int64_t>(),
             py::arg("tables").noconvert(), py::arg("values").noconvert(), py::arg("rows").noconvert(),
             py::arg("positions").noconvert(), py::arg("ahead"))
        .def("__call__", &PlainRowLoopOfArrays::operator());
}

}  // namespace fusedopt::python
