"""Programs of the project that are neither package nor tests: fuzzing, mutation, tables, the build hook."""
