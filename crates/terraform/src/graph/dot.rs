//! The part of the DOT language that Terraform uses: nodes, edges, attributes, nested subgraphs.

use super::Graph;

/// Maximum number of bytes, nodes and edges of a graph; the limits of newer servers.
const MAX_BYTES: usize = 64 << 20;
const MAX_NODES: usize = 100_000;
const MAX_EDGES: usize = 1_000_000;
/// Maximum nesting of subgraphs.
const MAX_DEPTH: usize = 32;

/// Reason why text is not a graph.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum GraphError {
    /// The text is malformed.
    #[error("parse graph: {what} in line {line}")]
    Syntax {
        /// Description of the problem.
        what: &'static str,
        /// Number of the line, counted from 1.
        line: usize,
    },
    /// The graph exceeds a limit.
    #[error("parse graph: more than {limit} {what}")]
    TooLarge {
        /// Kind of the elements that exceed their limit.
        what: &'static str,
        /// Maximum number of these elements.
        limit: usize,
    },
}

pub(super) fn parse(text: &str) -> Result<Graph, GraphError> {
    if text.len() > MAX_BYTES {
        return Err(GraphError::TooLarge {
            what: "bytes",
            limit: MAX_BYTES,
        });
    }
    let mut parser = Parser {
        text,
        at: 0,
        token: Token::End,
        graph: Graph::default(),
    };
    parser.advance()?;
    parser.graph()?;
    Ok(parser.graph)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    /// An id; a quoted one is without its quotes, with escapes unchanged.
    Id(&'a str),
    Arrow,
    Sign(u8),
    End,
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    token: Token<'a>,
    graph: Graph,
}

impl<'a> Parser<'a> {
    fn graph(&mut self) -> Result<(), GraphError> {
        self.accept_word("strict")?;
        if !self.accept_word("digraph")? && !self.accept_word("graph")? {
            return Err(self.wrong("expected `digraph`"));
        }
        if let Token::Id(_) = self.token {
            self.advance()?;
        }
        self.block(0)?;
        if self.token == Token::End {
            Ok(())
        } else {
            Err(self.wrong("expected the end"))
        }
    }

    fn block(&mut self, depth: usize) -> Result<(), GraphError> {
        if depth > MAX_DEPTH {
            return Err(GraphError::TooLarge {
                what: "nested subgraphs",
                limit: MAX_DEPTH,
            });
        }
        self.expect(b'{', "expected `{`")?;
        while self.token != Token::Sign(b'}') {
            self.statement(depth)?;
            if self.token == Token::Sign(b';') {
                self.advance()?;
            }
        }
        self.advance()
    }

    fn statement(&mut self, depth: usize) -> Result<(), GraphError> {
        if self.token == Token::Sign(b'{') {
            return self.block(depth + 1);
        }
        let Token::Id(id) = self.token else {
            return Err(self.wrong("expected a statement"));
        };
        let is_quoted = self.text.as_bytes()[..self.at].last() == Some(&b'"');
        self.advance()?;
        if !is_quoted && id == "subgraph" {
            if let Token::Id(_) = self.token {
                self.advance()?;
            }
            return self.block(depth + 1);
        }
        if self.token == Token::Sign(b'=') {
            self.advance()?;
            return self.id("expected a value after `=`").map(drop);
        }
        if !is_quoted && matches!(id, "graph" | "node" | "edge") {
            return self.attributes().map(drop);
        }
        self.node_or_edges(id)
    }

    fn node_or_edges(&mut self, id: &'a str) -> Result<(), GraphError> {
        let mut from = self.node(id)?;
        let mut is_edge = false;
        while self.token == Token::Arrow {
            self.advance()?;
            let to = self.id("expected a node after `->`")?;
            let to = self.node(to)?;
            self.graph.connect(from, to);
            if self.graph.edges.len() > MAX_EDGES {
                return Err(GraphError::TooLarge {
                    what: "edges",
                    limit: MAX_EDGES,
                });
            }
            (from, is_edge) = (to, true);
        }
        let label = self.attributes()?;
        if let (Some(label), false) = (label, is_edge) {
            self.graph.nodes[from].label = Some(label.to_owned());
        }
        Ok(())
    }

    /// Parses attribute lists and returns the last label.
    fn attributes(&mut self) -> Result<Option<&'a str>, GraphError> {
        let mut label = None;
        while self.token == Token::Sign(b'[') {
            self.advance()?;
            while self.token != Token::Sign(b']') {
                let name = self.id("expected an attribute")?;
                self.expect(b'=', "expected `=` after an attribute")?;
                let value = self.id("expected a value after `=`")?;
                if name == "label" {
                    label = Some(value);
                }
                if matches!(self.token, Token::Sign(b',' | b';')) {
                    self.advance()?;
                }
            }
            self.advance()?;
        }
        Ok(label)
    }

    fn node(&mut self, id: &str) -> Result<usize, GraphError> {
        let node = self.graph.node(id);
        if node >= MAX_NODES {
            return Err(GraphError::TooLarge {
                what: "nodes",
                limit: MAX_NODES,
            });
        }
        Ok(node)
    }

    fn id(&mut self, otherwise: &'static str) -> Result<&'a str, GraphError> {
        let Token::Id(id) = self.token else {
            return Err(self.wrong(otherwise));
        };
        self.advance()?;
        Ok(id)
    }

    fn expect(&mut self, sign: u8, otherwise: &'static str) -> Result<(), GraphError> {
        if self.token == Token::Sign(sign) {
            self.advance()
        } else {
            Err(self.wrong(otherwise))
        }
    }

    fn accept_word(&mut self, word: &str) -> Result<bool, GraphError> {
        let is_it = matches!(self.token, Token::Id(id) if id.eq_ignore_ascii_case(word));
        if is_it {
            self.advance()?;
        }
        Ok(is_it)
    }

    fn advance(&mut self) -> Result<(), GraphError> {
        self.skip_blanks();
        let bytes = self.text.as_bytes();
        let start = self.at;
        self.token = match bytes.get(start) {
            None => Token::End,
            Some(b'"') => self.quoted()?,
            Some(b'-') if bytes.get(start + 1) == Some(&b'>') => {
                self.at += 2;
                Token::Arrow
            }
            Some(sign @ (b'{' | b'}' | b'[' | b']' | b'=' | b';' | b',')) => {
                self.at += 1;
                Token::Sign(*sign)
            }
            Some(_) => {
                let is_word = |byte: &&u8| {
                    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-' | 0x80..)
                };
                let length = bytes[start..].iter().take_while(is_word).count();
                if length == 0 {
                    return Err(self.wrong("unexpected character"));
                }
                self.at += length;
                Token::Id(&self.text[start..self.at])
            }
        };
        Ok(())
    }

    fn quoted(&mut self) -> Result<Token<'a>, GraphError> {
        let bytes = self.text.as_bytes();
        let mut at = self.at + 1;
        loop {
            match bytes.get(at) {
                None => return Err(self.wrong("unterminated string")),
                Some(b'\\') => at += 2,
                Some(b'"') => break,
                Some(_) => at += 1,
            }
        }
        let inner = &self.text[self.at + 1..at];
        self.at = at + 1;
        Ok(Token::Id(inner))
    }

    fn skip_blanks(&mut self) {
        loop {
            let rest = &self.text[self.at..];
            let trimmed = rest.trim_start();
            self.at += rest.len() - trimmed.len();
            let comment = if trimmed.starts_with("//") || trimmed.starts_with('#') {
                trimmed.find('\n').unwrap_or(trimmed.len())
            } else if trimmed.starts_with("/*") {
                trimmed.find("*/").map_or(trimmed.len(), |end| end + 2)
            } else {
                return;
            };
            self.at += comment;
        }
    }

    fn wrong(&self, what: &'static str) -> GraphError {
        let end = self.at.min(self.text.len());
        let line = 1 + self.text.as_bytes()[..end]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count();
        GraphError::Syntax { what, line }
    }
}
