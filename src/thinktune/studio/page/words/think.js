// Words of the think screen.

export const en = {
  title: 'Think',
};

export const zh = {
  title: '补思考',
};
