//! The backend of a template, if it declares one.

use super::module::Module;

/// A declared location for the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    /// The block `backend "KIND" {}`, such as `s3`. With `local`, the state is a file as without a backend.
    Named(String),
    /// The block `cloud {}`, for HCP Terraform.
    Cloud,
}

/// Returns the backend of a root module; `None` if the state is a local file.
///
/// A server stores the states of its workspaces itself, and does not see one that is stored elsewhere.
pub fn backend(module: &Module) -> Option<Backend> {
    let mut found = None;
    for located in module.blocks("terraform") {
        for block in located.block.body.blocks() {
            let label = block.labels.first().map(|label| label.as_str().to_owned());
            match (block.ident.as_str(), label) {
                ("backend", Some(kind)) => found = Some(Backend::Named(kind)),
                ("cloud", _) => found = Some(Backend::Cloud),
                _ => {}
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, text: &str) -> Option<Backend> {
        backend(&Module::parse([(name, text)]).unwrap())
    }

    #[test]
    fn backends_are_found_in_both_syntaxes() {
        let s3 = Some(Backend::Named("s3".to_owned()));
        assert_eq!(read("a.tf", "terraform {\n backend \"s3\" {}\n}\n"), s3);
        assert_eq!(
            read("a.tf.json", r#"{"terraform": {"backend": {"s3": {}}}}"#),
            s3
        );
        assert_eq!(
            read("a.tf", "terraform {\n cloud {}\n}\n"),
            Some(Backend::Cloud)
        );
        assert_eq!(
            read("a.tf", "terraform {\n required_version = \">= 1\"\n}\n"),
            None
        );
    }
}
