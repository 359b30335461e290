//! How messages become bytes: in the encoding of prost, with the buffers arranged so that its many
//! small steps are cheap. A batch of a thousand handles is six thousand of them each way.

use std::marker::PhantomData;

use prost::bytes::{Buf as _, BufMut as _};
use prost::{EncodeError, Message};
use tonic::Status;
use tonic::codec::{DecodeBuf, EncodeBuf};

/// Up to this length, messages are encoded and decoded in memory of their own, where a step is a
/// load or a store: in tonic's buffers it would be a call. In longer ones the bytes of a block are
/// most of it, and a copy less is worth more than quick steps.
const MAX_COPIED_BYTES: usize = 32 << 10;

/// The codec of every call.
#[derive(Debug)]
pub(crate) struct Codec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> tonic::codec::Codec for Codec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = Encoder<T>;
    type Decoder = Decoder<U>;

    fn encoder(&mut self) -> Encoder<T> {
        Encoder(PhantomData)
    }

    fn decoder(&mut self) -> Decoder<U> {
        Decoder(PhantomData)
    }
}

/// Encodes messages.
#[derive(Debug)]
pub(crate) struct Encoder<T>(PhantomData<T>);

impl<T: Message> tonic::codec::Encoder for Encoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, message: T, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        if message.encoded_len() <= MAX_COPIED_BYTES {
            into.put_slice(&message.encode_to_vec());
            return Ok(());
        }
        let no_room = |error: EncodeError| Status::internal(error.to_string());
        message.encode(into).map_err(no_room)
    }
}

/// Decodes messages.
#[derive(Debug)]
pub(crate) struct Decoder<U>(PhantomData<U>);

impl<U: Message + Default> tonic::codec::Decoder for Decoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        let len_bytes = from.remaining();
        let decoded = match from.chunk().get(..len_bytes) {
            Some(message) if len_bytes <= MAX_COPIED_BYTES => {
                let decoded = U::decode(message);
                from.advance(len_bytes);
                decoded
            }
            // Taken out of tonic's buffer as a whole: the bytes of a block are not copied.
            _ => U::decode(from.copy_to_bytes(len_bytes)),
        };
        // As tonic's own codec has it, so that clients see no difference.
        decoded
            .map(Some)
            .map_err(|error| Status::internal(error.to_string()))
    }
}
