//! How messages become bytes: prost's encoding, with the buffers arranged so that its many small
//! steps are cheap. A batch of a thousand handles is six thousand of them each way.

use std::marker::PhantomData;

use prost::bytes::{Buf as _, BufMut as _};
use prost::{EncodeError, Message};
use tonic::Status;
use tonic::codec::{DecodeBuf, EncodeBuf};

/// Encoded on the side and copied. In longer messages the bytes of a block are most of it, and one
/// copy less is worth more than quick steps.
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
            // A step is a store here: tonic's buffer would be asked for room at each.
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
        // Taken out of tonic's buffer as a whole and without a copy; a step then moves a pointer.
        let message = from.copy_to_bytes(from.remaining());
        U::decode(message).map(Some).map_err(|error| {
            // As tonic's own codec has it, so that clients see no difference.
            Status::internal(error.to_string())
        })
    }
}
