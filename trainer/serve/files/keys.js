// Which key stands for which class, and what a key press means on any keyboard.
const RESERVED = "uxon"; // undo, leave out, leave the other out, next undecided
const FIXED = [..."1234567890", ..."abcdefghijklmnopqrstuvwxyz"].filter((key) => !RESERVED.includes(key));

// A class has its own key as long as there are enough; of many classes the likeliest have the numbers
export const fewEnough = (classes) => classes <= FIXED.length;
export const keyOf = (place) => FIXED[place] || "";
export const placeOf = (key) => FIXED.indexOf(key);

// The letter that is printed on the key where another alphabet is typed, else what was typed
export const pressed = (event) => {
  if (/^[\x20-\x7e]$/.test(event.key)) return event.key.toLowerCase();
  if ([...event.key].length === 1 && /^Key[A-Z]$/.test(event.code)) return event.code.slice(3).toLowerCase();
  return event.key;
};

export const help = (classes) => [
  ["Enter", "keep the class that it has, or take the suggested one; where it is decided: the next undecided image; on a button: that button"],
  fewEnough(classes)
    ? [FIXED.slice(0, classes).join(" "), "the class with this key"]
    : ["1 to 9", "one of the likeliest classes"],
  fewEnough(classes) ? ["/", "find a class by typing"] : ["/ or any other letter", "find a class by typing"],
  ["↑ ↓", "from class to class"],
  ["← →", "the image before, the next one"],
  ["N", "the next image that is undecided"],
  ["X", "leave the image out of the data set"],
  ["O", "of two that are the same: leave the other one out, keep this one"],
  ["U", "undo"],
  ["Esc", "leave the field without deciding"],
];
