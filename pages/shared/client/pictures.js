// Pictures from their addresses, for the widgets that draw them: put before a widget's own module.

/** The picture at an address. A busy browser refuses now and then, and is asked again for some seconds. */
async function decoded(address) {
  for (let pauseMs = 50; ; pauseMs *= 2) {
    const picture = new Image();
    picture.src = address;
    try {
      await picture.decode();
      return picture;
    } catch (refusal) {
      if (pauseMs > 5000) throw refusal;
    }
    await new Promise((goOn) => setTimeout(goOn, pauseMs));
  }
}
