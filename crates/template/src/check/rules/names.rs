//! Names that must be unique, with all that a `count` or `for_each` makes.

use std::collections::BTreeMap;

use crate::check::{model::Decl, rules::Check, values::Scope};

/// One name that certainly exists in a workspace.
pub(super) struct Named<'m, 'a> {
    pub(super) name: String,
    pub(super) decl: &'m Decl<'a>,
    /// Tells whether the block makes a single resource.
    pub(super) key: String,
}

/// The names that declarations certainly have, by what `name_of` reads.
pub(super) fn certain<'m, 'a: 'm>(
    check: &Check<'a, 'm>,
    decls: impl Iterator<Item = &'m Decl<'a>>,
    name_of: impl Fn(&Decl<'a>, &Scope) -> Option<String>,
) -> Vec<Named<'m, 'a>> {
    let mut all = Vec::new();
    for decl in decls {
        for scope in check
            .model
            .scopes(decl)
            .iter()
            .filter(|scope| scope.is_certain)
        {
            if let Some(name) = name_of(decl, scope) {
                all.push(Named {
                    name,
                    decl,
                    key: scope.key.clone(),
                });
            }
        }
    }
    all
}

/// Those that repeat an earlier one, with the address of the earlier one. One finding for each block is enough.
pub(super) fn repeated<'n, 'm, 'a>(
    all: &'n [Named<'m, 'a>],
    same: impl Fn(&Named<'m, 'a>) -> String,
) -> Vec<(&'n Named<'m, 'a>, String)> {
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    let mut blocks: Vec<&Decl<'a>> = Vec::new();
    let mut repeated = Vec::new();
    for named in all {
        let address = format!("{}{}", named.decl.address, named.key);
        match seen.get(&same(named)) {
            Some(first) if !blocks.iter().any(|block| std::ptr::eq(*block, named.decl)) => {
                blocks.push(named.decl);
                repeated.push((named, first.clone()));
            }
            Some(_) => {}
            None => {
                seen.insert(same(named), address);
            }
        }
    }
    repeated
}
