"""The synchronous classes. All but `transport` is written from `mvm._async`."""
