"""The ground floor: contracts, run folder, options, registry, console, errors."""
