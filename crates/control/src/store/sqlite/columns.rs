//! Conversion of columns to the types of the model.

use jiff::Timestamp;
use serde::{Serialize, de::DeserializeOwned};
use sqlx::{Decode, Row as _, Sqlite as Db, Type, sqlite::SqliteRow};
use uuid::Uuid;

use super::super::StoreError;
use crate::{crypt::Sealed, queue::Tags};

/// A row, with its table's name for error messages.
pub(super) struct Columns<'r> {
    table: &'static str,
    row: &'r SqliteRow,
}

impl<'r> Columns<'r> {
    pub(super) fn of(table: &'static str, row: &'r SqliteRow) -> Self {
        Self { table, row }
    }

    fn wrong(&self, column: &str, reason: &dyn std::fmt::Display) -> StoreError {
        StoreError::Row {
            table: self.table,
            reason: format!("column {column}: {reason}"),
        }
    }

    fn read<T: Decode<'r, Db> + Type<Db>>(&self, column: &str) -> Result<T, StoreError> {
        self.row
            .try_get(column)
            .map_err(|error| self.wrong(column, &error))
    }

    pub(super) fn text(&self, column: &str) -> Result<String, StoreError> {
        self.read(column)
    }

    pub(super) fn number(&self, column: &str) -> Result<i64, StoreError> {
        self.read(column)
    }

    pub(super) fn small(&self, column: &str) -> Result<i32, StoreError> {
        i32::try_from(self.number(column)?).map_err(|error| self.wrong(column, &error))
    }

    pub(super) fn optional_small(&self, column: &str) -> Result<Option<i32>, StoreError> {
        let number: Option<i64> = self.read(column)?;
        number
            .map(|number| i32::try_from(number).map_err(|error| self.wrong(column, &error)))
            .transpose()
    }

    pub(super) fn flag(&self, column: &str) -> Result<bool, StoreError> {
        Ok(self.number(column)? != 0)
    }

    pub(super) fn bytes(&self, column: &str) -> Result<Vec<u8>, StoreError> {
        self.read(column)
    }

    pub(super) fn sealed(&self, column: &str) -> Result<Sealed, StoreError> {
        self.read(column).map(Sealed)
    }

    pub(super) fn optional_sealed(&self, column: &str) -> Result<Option<Sealed>, StoreError> {
        let bytes: Option<Vec<u8>> = self.read(column)?;
        Ok(bytes.map(Sealed))
    }

    pub(super) fn id<T: From<Uuid>>(&self, column: &str) -> Result<T, StoreError> {
        self.parse_id(column, self.read(column)?)
    }

    pub(super) fn optional_id<T: From<Uuid>>(&self, column: &str) -> Result<Option<T>, StoreError> {
        let text: Option<&str> = self.read(column)?;
        text.map(|text| self.parse_id(column, text)).transpose()
    }

    /// Parses a value from its displayed form.
    pub(super) fn parsed<T>(&self, column: &str) -> Result<T, StoreError>
    where
        T: std::str::FromStr<Err: std::fmt::Display>,
    {
        let text: &str = self.read(column)?;
        text.parse().map_err(|error| self.wrong(column, &error))
    }

    fn parse_id<T: From<Uuid>>(&self, column: &str, text: &str) -> Result<T, StoreError> {
        Uuid::parse_str(text)
            .map(T::from)
            .map_err(|error| self.wrong(column, &error))
    }

    pub(super) fn time(&self, column: &str) -> Result<Timestamp, StoreError> {
        self.parse_time(column, self.read(column)?)
    }

    pub(super) fn optional_time(&self, column: &str) -> Result<Option<Timestamp>, StoreError> {
        let millis: Option<i64> = self.read(column)?;
        millis
            .map(|millis| self.parse_time(column, millis))
            .transpose()
    }

    fn parse_time(&self, column: &str, millis: i64) -> Result<Timestamp, StoreError> {
        Timestamp::from_millisecond(millis).map_err(|error| self.wrong(column, &error))
    }

    pub(super) fn json<T: DeserializeOwned>(&self, column: &str) -> Result<T, StoreError> {
        let text: &str = self.read(column)?;
        serde_json::from_str(text).map_err(|error| self.wrong(column, &error))
    }

    /// Parses a value whose serde form is a plain string.
    pub(super) fn word<T: DeserializeOwned>(&self, column: &str) -> Result<T, StoreError> {
        let text: String = self.read(column)?;
        serde_json::from_value(text.into()).map_err(|error| self.wrong(column, &error))
    }

    pub(super) fn optional_word<T: DeserializeOwned>(
        &self,
        column: &str,
    ) -> Result<Option<T>, StoreError> {
        let text: Option<String> = self.read(column)?;
        text.map(|text| serde_json::from_value(text.into()))
            .transpose()
            .map_err(|error| self.wrong(column, &error))
    }

    pub(super) fn tags(&self, column: &str) -> Result<Tags, StoreError> {
        self.json(column)
    }
}

/// Formats a value as JSON. Everything that we store has string keys and finite numbers.
pub(super) fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("types of the model have a JSON form")
}
