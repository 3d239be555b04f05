//! What a template author does without a server: inspect and draw.
