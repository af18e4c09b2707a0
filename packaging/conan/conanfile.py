"""The Conan recipe of the C++ library: ``conan create packaging/conan -s compiler.cppstd=20``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import ClassVar

from conan import ConanFile
from conan.errors import ConanInvalidConfiguration
from conan.tools.build import check_min_cppstd
from conan.tools.cmake import CMake, CMakeToolchain, cmake_layout
from conan.tools.files import copy, rmdir

CHECKOUT = Path(__file__).resolve().parents[2]


class Fusedopt(ConanFile):
    """The library, from the checkout in which this recipe lies."""

    name = "fusedopt"
    package_type = "library"
    license = "Apache-2.0"
    homepage = "https://github.com/fusedopt/fusedopt"
    url = homepage
    description = "Gradient-descent optimizers that run in place, in one fused sweep"
    topics = ("optimizer", "adam", "sgd", "simd")
    settings = "os", "arch", "compiler", "build_type"
    options: ClassVar = {"shared": [True, False], "fPIC": [True, False], "openmp": [True, False]}
    default_options: ClassVar = {"shared": False, "fPIC": True, "openmp": True}
    implements: ClassVar = ["auto_shared_fpic"]

    def set_version(self) -> None:
        text = (CHECKOUT / "CMakeLists.txt").read_text(encoding="utf-8")
        self.version = re.findall(r"project\(fusedopt VERSION ([0-9.]+)", text)[0]

    def export_sources(self) -> None:
        for pattern in ("CMakeLists.txt", "LICENSE", "cpp/*"):
            copy(self, pattern, CHECKOUT, self.export_sources_folder)

    def layout(self) -> None:
        cmake_layout(self)

    def validate(self) -> None:
        check_min_cppstd(self, 20)
        if self.settings.compiler == "msvc":
            raise ConanInvalidConfiguration("fusedopt needs clang-cl, GCC or Clang, found cl.exe")

    def generate(self) -> None:
        toolchain = CMakeToolchain(self)
        toolchain.cache_variables["FUSEDOPT_OPENMP"] = bool(self.options.openmp)
        toolchain.cache_variables["CMAKE_UNITY_BUILD"] = True  # headers cost more than the code
        toolchain.cache_variables["CMAKE_UNITY_BUILD_BATCH_SIZE"] = "0"
        toolchain.generate()

    def build(self) -> None:
        cmake = CMake(self)
        cmake.configure()
        cmake.build()

    def package(self) -> None:
        copy(self, "LICENSE", self.source_folder, Path(self.package_folder) / "licenses")
        CMake(self).install()
        for folder in ("cmake", "pkgconfig"):  # Conan generates these for the consumer
            rmdir(self, str(Path(self.package_folder) / "lib" / folder))

    def package_info(self) -> None:
        self.cpp_info.libs = ["fusedopt"]
        self.cpp_info.set_property("cmake_file_name", "fusedopt")
        self.cpp_info.set_property("cmake_target_name", "fusedopt::fusedopt")
        self.cpp_info.set_property("pkg_config_name", "fusedopt")
        if self.settings.os in ("Linux", "FreeBSD"):
            self.cpp_info.system_libs = ["m"]
        if self.options.openmp and not self.options.shared and self.settings.os == "Linux":
            self.cpp_info.sharedlinkflags = ["-fopenmp"]
            self.cpp_info.exelinkflags = ["-fopenmp"]
