# The library, its headers, its CMake package and its pkg-config file.
include(CMakePackageConfigHelpers)

# A static library leaves its own libraries to whoever links it.
get_target_property(fusedopt_type fusedopt TYPE)
set(FUSEDOPT_LINKS_OPENMP OFF)
if(FUSEDOPT_HAS_OPENMP AND fusedopt_type STREQUAL "STATIC_LIBRARY")
  set(FUSEDOPT_LINKS_OPENMP ON)
endif()

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/fusedopt)
install(TARGETS fusedopt fusedopt_own_rule EXPORT fusedopt-targets
        RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR}
        LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
        ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY include/fusedopt DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT fusedopt-targets NAMESPACE fusedopt:: DESTINATION ${package_dir})

configure_package_config_file(cmake/fusedopt-config.cmake.in ${CMAKE_CURRENT_BINARY_DIR}/fusedopt-config.cmake
                              INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/fusedopt-config-version.cmake
                                 COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/fusedopt-config.cmake
              ${CMAKE_CURRENT_BINARY_DIR}/fusedopt-config-version.cmake
        DESTINATION ${package_dir})

# pkg-config's file finds its neighbours from where it lies, so that the installed tree can be moved.
file(RELATIVE_PATH FUSEDOPT_PC_TO_INCLUDEDIR ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig ${CMAKE_INSTALL_FULL_INCLUDEDIR})
set(FUSEDOPT_PC_STANDARD "${CMAKE_CXX20_STANDARD_COMPILE_OPTION}")
set(FUSEDOPT_PC_LIBS "")
if(FUSEDOPT_LINKS_OPENMP)
  set(FUSEDOPT_PC_LIBS "${OpenMP_CXX_FLAGS}")
endif()
configure_file(cmake/fusedopt.pc.in ${CMAKE_CURRENT_BINARY_DIR}/fusedopt.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/fusedopt.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
