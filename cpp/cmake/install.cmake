# The library, its headers, its CMake package and its pkg-config file.
include(CMakePackageConfigHelpers)

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/fusedopt)
install(TARGETS fusedopt EXPORT fusedopt-targets
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

# What a static library still needs when it is linked.
set(FUSEDOPT_PRIVATE_LIBS "")
if(FUSEDOPT_HAS_OPENMP)
  set(FUSEDOPT_PRIVATE_LIBS "${OpenMP_CXX_FLAGS}")
endif()
get_target_property(fusedopt_type fusedopt TYPE)
if(fusedopt_type STREQUAL "STATIC_LIBRARY")
  set(FUSEDOPT_PUBLIC_LIBS "${FUSEDOPT_PRIVATE_LIBS}")
endif()
configure_file(cmake/fusedopt.pc.in ${CMAKE_CURRENT_BINARY_DIR}/fusedopt.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/fusedopt.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
