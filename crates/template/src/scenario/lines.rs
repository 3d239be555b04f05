//! Lines and columns of byte offsets.

/// Offsets at which the lines of a text begin.
pub(super) struct Lines(Vec<usize>);

impl Lines {
    pub(super) fn of(text: &str) -> Self {
        let ends = text.match_indices('\n').map(|(at, _)| at + 1);
        Self(std::iter::once(0).chain(ends).collect())
    }

    /// Line and column of an offset in `text`, both counted from 1.
    pub(super) fn position(&self, text: &str, offset: usize) -> (usize, usize) {
        let offset = offset.min(text.len());
        let line = self.0.partition_point(|start| *start <= offset);
        let before = text.get(self.0[line - 1]..offset).unwrap_or_default();
        (line, before.chars().count() + 1)
    }
}
