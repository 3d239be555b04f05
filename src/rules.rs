//! What a server accepts: slugs, agent names, parameters, presets, tags.
